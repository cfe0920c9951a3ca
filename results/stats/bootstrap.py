"""Intervals by a hierarchical bootstrap over budget replicate, seed (within a replicate) and patient.

One draw resamples, with replacement, the replicates, the seeds within each drawn replicate, and the patients; all
runs of a draw see the same patients. With patient weights w_p (how often p was drawn) and run weights v_r,

    score(draw) = sum_r v_r m( sum_p w_p counts[r, p] ) / sum_r v_r

so counts are pooled over patients before the ratio is taken. The draws are stretched about the mean to account for few
replicates and patients (``small_samples``) and clipped to the range of the score; the interval is their 2.5 and 97.5
percentile (Efron & Tibshirani 1993, ch. 13). With a single run only patients are resampled, so the interval says
nothing about other seeds or draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.stats

from tissuebench.errors import DataError
from tissuebench.results.metrics import Floats
from tissuebench.results.stats.small_samples import stretched

N_BOOT = 2000
PERCENTILES = (2.5, 97.5)
Run = tuple[int, int]  # (replicate, seed)


class Sample(Protocol):
    """The runs of one method on the same patients, with a function to score them."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """R distinct (replicate, seed)."""
        ...

    @property
    def patients(self) -> tuple[str, ...]:
        """P patient ids."""
        ...

    def scores(self, weights: Floats) -> Floats:
        """Return M pooled scores of each run under each weighting of the patients: (B, P) -> (B, R, M)."""
        ...


@dataclass(frozen=True, eq=False)
class Interval:
    """Estimate and 95 % interval of M scores, each array (M,); nan where there is none.

    Attributes:
        mean: mean over runs of the score on all patients.
        n_valid: number of resamples in which the score exists; the others are dropped.
    """

    mean: Floats
    low: Floats
    high: Floats
    n_valid: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scored:
    """A sample under one set of patient draws.

    Attributes:
        point: (R, M) scores on all patients.
        draws: (B, R, M) scores on the resampled patients.
        span: lowest and highest possible score.
    """

    runs: tuple[Run, ...]
    patients: tuple[str, ...]
    point: Floats
    draws: Floats
    span: tuple[float, float] = (0.0, 1.0)

    def at(self, runs: Sequence[Run]) -> Scored:
        """Return the scores of some of the runs, in the order given."""
        if tuple(runs) == self.runs:
            return self
        where = [self.runs.index(run) for run in runs]
        return Scored(tuple(runs), self.patients, self.point[where], self.draws[:, where], self.span)


def weights_of(indices: npt.NDArray[np.int64], n: int) -> Floats:
    """Count how often each of ``n`` items was drawn: indices (B, any) -> (B, n)."""
    rows = np.arange(len(indices))[:, None] * n
    return np.bincount((rows + indices).ravel(), minlength=len(indices) * n).reshape(-1, n).astype(np.float64)


def patient_weights(rng: np.random.Generator, n_patients: int, n_boot: int = N_BOOT) -> Floats:
    """Draw ``n_boot`` resamples of the patients as weights, (B, P)."""
    return weights_of(rng.integers(0, n_patients, size=(n_boot, n_patients)), n_patients)


def run_weights(rng: np.random.Generator, runs: Sequence[Run], n_boot: int = N_BOOT) -> Floats:
    """Draw ``n_boot`` resamples of the replicates and, within each drawn one, of its seeds, as weights, (B, R)."""
    groups = [[i for i, run in enumerate(runs) if run[0] == r] for r in sorted({run[0] for run in runs})]
    sizes = np.array([len(group) for group in groups])
    padded = np.array([group + [0] * (sizes.max() - len(group)) for group in groups])
    replicate = rng.integers(0, len(groups), size=(n_boot, len(groups)))
    n_seeds = sizes[replicate][..., None]
    seed = (rng.random((*replicate.shape, sizes.max())) * n_seeds).astype(np.int64)
    drawn = padded[replicate[..., None], seed]
    drawn = np.where(np.arange(sizes.max()) < n_seeds, drawn, len(runs))  # padding goes to an extra bin
    return weights_of(drawn.reshape(n_boot, -1), len(runs) + 1)[:, :-1]


def score(sample: Sample, weights: Floats) -> Scored:
    """Score a sample on all its patients and under each row of ``weights`` (B, P)."""
    everyone = np.ones((1, len(sample.patients)))
    return Scored(sample.runs, sample.patients, sample.scores(everyone)[0], sample.scores(weights))


def interval(scored: Scored, weights: Floats) -> Interval:
    """Mean over runs and percentiles of its stretched draws; runs without a score are left out of the mean.

    With a single patient there is nothing to resample, so the interval is nan, not a point.

    Args:
        scored: scores under B draws of the patients.
        weights: (B, R) number of times each draw takes each run.
    """
    mean, draws = run_means(scored, weights)
    ends = np.full((2, len(mean)), np.nan)
    valid = ~np.isnan(draws)
    if len(scored.patients) > 1:
        if valid.all():
            ends = np.percentile(draws, PERCENTILES, axis=0)
        else:
            for j in np.flatnonzero(valid.any(0)):
                ends[:, j] = np.percentile(draws[valid[:, j], j], PERCENTILES)
    return Interval(mean, ends[0], ends[1], valid.sum(0))


def run_means(scored: Scored, weights: Floats) -> tuple[Floats, Floats]:
    """Mean over runs of the scores on all patients, (M,), and its stretched draws, (B, M)."""
    mean = _weighted_mean(np.ones((1, len(scored.runs))), scored.point[None])[0]
    draws = _weighted_mean(weights, scored.draws)
    if len(scored.patients) > 1:
        draws = stretched(mean, draws, scored.runs, len(scored.patients), scored.point, scored.draws)
    return mean, np.clip(draws, *scored.span)


def pair(a: Scored, b: Scored) -> Scored | None:
    """Differences a - b, run by run and draw by draw, on the common (replicate, seed); None if there are none.

    Raises:
        DataError: the two were not scored on the same patients under the same number of draws.
    """
    if a.patients != b.patients or len(a.draws) != len(b.draws):
        raise DataError("a paired difference needs the same test patients and draws on both sides")
    common = sorted(set(a.runs) & set(b.runs))
    if not common:
        return None
    a, b = a.at(common), b.at(common)
    span = (a.span[0] - b.span[1], a.span[1] - b.span[0])
    return Scored(a.runs, a.patients, a.point - b.point, a.draws - b.draws, span)


def bootstrap(sample: Sample, rng: np.random.Generator, n_boot: int = N_BOOT) -> Interval:
    """Estimate and interval of every score of a sample.

    Examples:
        >>> from pathlib import Path
        >>> from tissuebench.results.records.result_store import ResultStore
        >>> from tissuebench.results.tables.comparable import comparable_results
        >>> from tissuebench.results.tables.panel import panels
        >>> (panel,) = panels(comparable_results(ResultStore(Path("runs/results")))[0])
        >>> estimate = bootstrap(panel.cells["supervised", "minutes:60"], np.random.default_rng(0))
        >>> estimate.mean.shape == estimate.low.shape == (len(panel.metrics),)
        True
    """
    scored = score(sample, patient_weights(rng, len(sample.patients), n_boot))
    return interval(scored, run_weights(rng, sample.runs, n_boot))


def paired_difference(a: Sample, b: Sample, rng: np.random.Generator, n_boot: int = N_BOOT) -> Interval | None:
    """Estimate and interval of the mean of a - b, with the same draws of replicate, seed and patient for both.

    None if they have no (replicate, seed) in common.

    Raises:
        DataError: they were not tested on the same patients.

    Examples:
        >>> from pathlib import Path
        >>> from tissuebench.results.records.result_store import ResultStore
        >>> from tissuebench.results.tables.comparable import comparable_results
        >>> from tissuebench.results.tables.panel import panels
        >>> (panel,) = panels(comparable_results(ResultStore(Path("runs/results")))[0])
        >>> a, b = panel.cells["multilayer_pseudo", "minutes:60"], panel.cells["supervised", "minutes:60"]
        >>> paired_difference(a, b, np.random.default_rng(0)).mean.shape == (len(panel.metrics),)
        True
    """
    weights = patient_weights(rng, len(a.patients), n_boot)
    if a.patients != b.patients:
        raise DataError("a paired difference needs the same test patients on both sides")
    both = pair(score(a, weights), score(b, weights))
    return None if both is None else interval(both, run_weights(rng, both.runs, n_boot))


def _weighted_mean(weights: Floats, values: Floats) -> Floats:
    """Mean over runs: weights (B, R), values (B, R, M) -> (B, M); ignores nan, nan if nothing is left."""
    if not np.isnan(values).any():
        return np.asarray(np.einsum("br,brm->bm", weights, values) / weights.sum(1, keepdims=True), dtype=np.float64)
    there = ~np.isnan(values)
    total = np.einsum("br,brm->bm", weights, np.where(there, values, 0.0))
    weight = np.einsum("br,brm->bm", weights, there.astype(np.float64))
    out = np.full(total.shape, np.nan)
    np.divide(total, weight, out=out, where=weight > 0)
    return out


def wilcoxon(differences: Floats) -> float:
    """Two-sided p of the Wilcoxon signed-rank test of paired differences (P,), ignoring nan; nan if none is left.

    1 if all are 0, as there is no evidence against equality.
    """
    left = differences[~np.isnan(differences)]
    if left.size == 0:
        return float("nan")
    if not left.any():
        return 1.0
    return float(scipy.stats.wilcoxon(left).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down method (Scand. J. Statist. 1979); nan stays nan and is not counted.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    adjusted = [float("nan")] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted
