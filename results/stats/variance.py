"""Variance of a mean over runs, with draws of the budget, seeds, and patients as random effects.

A score of draw d, seed s on a sample of patients varies with all three; draws and seeds are crossed (the initialisation
and the order of tiles depend on the seed alone), unless each seed belongs to a single draw. With x_r the score of run r
and u_rp the influence of patient p on it (``scored``), the variance of the mean over the R runs is estimated by

    V = V_patients + V_draws + V_seeds - V_both

    V_draws      D / (D - 1) sum_d ((sum over the runs of d of x_r - mean) / R)^2
    V_seeds      likewise
    V_both       the interaction of draws and seeds, contained in the two: the residual mean square / R; not more than
                 the smaller of the two
    V_patients   sum_p (mean_r u_rp)^2, less what the choice of patients contributes to the three others: the same
                 quadratic forms of the u_rp, summed over p (Owen 2007, Ann. Appl. Stat. 1). Never so little that V is
                 below the first sum, the variance over patients of these very runs

With one draw (or none: a budget of everything) V_draws is 0, and the interval says nothing about other draws; with one
seed likewise.

With few patients behind a score their variance is poorly known, and 0 for a class of one patient. So it is averaged
with that of one more, assumed, patient: n patients count n - 1 times, the assumed one once,

    V_patients* = ((n - 1) V_patients + v / n) / n,   v = .1 s (1 - s) for a score, .002 s (1 - s) for a difference

n is the effective number of patients, 1 / sum of squared shares of the truth (Kish 1965).

V has the distribution of a scaled chi-squared, roughly, and the error divided by its square root that of t, with n - 1,
D - 1 and S - 1 degrees of freedom of the parts. The error exceeds c(a) sqrt(V) with probability a, where

    c(a) = w(a) t(a; df) + (1 - w(a)) sqrt(sum_i V_i t(a; df_i)^2 / sum_i V_i)       w(a) = w min(1, sqrt(a / .05))

is a mean of two: t at Satterthwaite's degrees of freedom (1946), sum(V_i)^2 / sum(V_i^2 / df_i), which is too low where
a part with few of them dominates, above all far out; and the root of the parts' squared half-widths (Graybill & Wang
1980), too high in between. w is 2/5, or 3/4 where draws and seeds are crossed. Interval and p are both from c: p is
the level at which c is the observed ratio. ``tests/results/stats/coverage_study.py`` simulates the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from tissuebench.results.metrics import Floats
from tissuebench.results.stats.scored import Run, Scored

LEVEL = 0.05
SMALLEST_P = 1e-16
ALONE, CROSSED = 0.4, 0.75
_NOTHING = 1e-18  # rounding errors of scores, squared


@dataclass(frozen=True, eq=False)
class Spread:
    """Distribution of the error of M means over runs.

    Attributes:
        total: (M,) variance.
        parts: (3, M) variances of patients, draws and seeds; the interaction of the latter, in both, is not taken off.
        df: (3, M) degrees of freedom of the parts.
        weight: w of the quantile, up to the level .05.
    """

    total: Floats
    parts: Floats
    df: Floats
    weight: float

    def quantile(self, level: Floats | float) -> Floats:
        """Return c, (M,): the error exceeds c standard errors to either side with probability ``level``."""
        total = self.parts.sum(0)
        alone = np.zeros_like(self.parts)
        alone[0] = 1.0  # without any variance, patients are all there is
        shares = np.divide(self.parts, total, out=alone, where=total > _NOTHING)
        pooled = np.maximum(1 / (shares**2 / self.df).sum(0), 1.0)
        half = np.broadcast_to(np.asarray(level) / 2, total.shape)
        apart = np.sqrt((shares * stdtrit(self.df, half) ** 2).sum(0))
        weight = self.weight * np.minimum(1.0, np.sqrt(2 * half / LEVEL))
        return np.asarray(-weight * stdtrit(pooled, half) + (1 - weight) * apart, dtype=np.float64)

    def p(self, errors: Floats) -> Floats:
        """Return the level whose quantile is ``errors`` (M,), in standard errors; at least ``SMALLEST_P``."""
        low, high = np.full_like(errors, np.log(SMALLEST_P)), np.zeros_like(errors)
        for _ in range(50):  # bisection
            middle = (low + high) / 2
            above = self.quantile(np.exp(middle)) > errors
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(np.isnan(errors), np.nan, np.exp(high))


@dataclass(frozen=True, eq=False)
class _Layout:
    """Contrasts between runs whose sums of squares are the variances of a mean over runs.

    Attributes:
        draws: (D, R), or None where draws do not vary or vary with the seeds.
        seeds: (S, R), or None likewise.
        both: (R, R) residuals of the additive model, scaled; None unless draws and seeds are crossed.
    """

    draws: Floats | None
    seeds: Floats | None
    both: Floats | None


def spread(scored: Scored) -> Spread:
    """Return the distribution of the error of the mean over runs."""
    n = scored.seen
    layout = _layout(scored.runs)
    of_draws, of_seeds, of_both = (_part(part, scored) for part in (layout.draws, layout.seeds, layout.both))
    between = of_draws.runs + of_seeds.runs - np.minimum(np.minimum(of_draws.runs, of_seeds.runs), of_both.runs)
    own = (scored.influence.mean(1) ** 2).sum(0)
    apart = np.maximum(own - of_draws.patients - of_seeds.patients + of_both.patients, own - between)
    there = np.maximum(n, 1.0)
    of_patients = ((there - 1) * np.maximum(apart, 0.0) + scored.prior / there) / there
    if not scored.bounded:  # no patient tells the two apart: as if one more spoke for each (Bonett & Price 2012)
        of_patients = np.where(own < _NOTHING, 2 / (n + 2) ** 2, of_patients)
    parts = np.stack([of_patients, of_draws.runs, of_seeds.runs])
    df = np.stack([np.maximum(n - 1, 1.0), np.full_like(n, of_draws.df), np.full_like(n, of_seeds.df)])
    return Spread(of_patients + between, parts, df, ALONE if layout.both is None else CROSSED)


def _layout(runs: Sequence[Run]) -> _Layout:
    draws, seeds = [draw for draw, _ in runs], [seed for _, seed in runs]
    n_draws, n_seeds, n_pairs = len(set(draws)), len(set(seeds)), len(runs)
    by_draw, by_seed = _groups(draws), _groups(seeds)
    if n_draws == 1 and n_seeds == 1:
        return _Layout(None, None, None)
    if n_draws > 1 and n_pairs == n_seeds:  # each seed belongs to one draw: it is part of the draw's variation
        return _Layout(_contrasts(by_draw), None, None)
    if n_draws == 1 or n_pairs == n_draws:
        return _Layout(None, _contrasts(by_seed), None) if n_seeds > 1 else _Layout(_contrasts(by_draw), None, None)
    return _Layout(_contrasts(by_draw), _contrasts(by_seed), _residuals(by_draw, by_seed))


def _groups(labels: Sequence[int | None]) -> Floats:
    """Membership (G, R), 1 where a run has the label of the group."""
    names = list(dict.fromkeys(labels))
    return np.array([[float(label == name) for label in labels] for name in names])


def _contrasts(member: Floats) -> Floats:
    """(G, R): applied to runs, the sum of squares is the unbiased variance of their mean if groups are the units."""
    n_groups, n_runs = member.shape
    centred = member - member.sum(1, keepdims=True) / n_runs
    return np.asarray(centred / n_runs * np.sqrt(n_groups / (n_groups - 1)), dtype=np.float64)


def _residuals(by_draw: Floats, by_seed: Floats) -> Floats:
    """(R, R): applied to runs, the sum of squares is the residual mean square over the number of runs."""
    design = np.concatenate([by_draw, by_seed]).T
    n_runs, rank = len(design), int(np.linalg.matrix_rank(design))
    if rank == n_runs:
        return np.zeros((1, n_runs))
    project = np.eye(n_runs) - design @ np.linalg.pinv(design)
    return np.asarray(project / np.sqrt((n_runs - rank) * n_runs), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Part:
    """A variance between runs, (M,), what patients contribute to it, (M,), and its degrees of freedom."""

    runs: Floats
    patients: Floats
    df: float


def _part(contrasts: Floats | None, scored: Scored) -> _Part:
    if contrasts is None:
        nothing = np.zeros(scored.point.shape[1])
        return _Part(nothing, nothing, 1.0)
    of_runs, of_patients = contrasts @ scored.point, contrasts @ scored.influence
    return _Part((of_runs**2).sum(0), (of_patients**2).sum((0, 1)), max(len(contrasts) - 1.0, 1.0))
