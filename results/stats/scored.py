"""Scores of runs and the influence of each patient on them: all that intervals, p values, and marks are made of.

A score s is a function of counts summed over patients. The influence of a patient is the change of the score if the
patient had half the weight, doubled,

    u_p = 2 (s(all patients) - s(patient p with weight 1/2))

so that sum_p u_p^2 estimates the variance of the score over samples of patients. The full weight would be the
jackknife, whose variance is too large by about the leverage of the patient; an infinitesimal one gives the
linearisation, too small by as much. Half of it lies between the two (CR2 of Bell & McCaffrey 2002 to second order: for
the mean of P patients the variance is unbiased up to 1 / (4 P^2)), and no class ever loses its last patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tissuebench.errors import DataError
from tissuebench.results.metrics import Floats

Run = tuple[int | None, int]
"""(draw of the budget, seed); the draw is None for a budget of everything, which has none."""

SCORE_PRIOR = 0.1
DIFFERENCE_PRIOR = 0.002
"""Assumed variances of a patient's own score, and of a difference of two, as shares of s (1 - s) (``variance``)."""


class Sample(Protocol):
    """The runs of one method on the same patients, with a function to score them."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """R distinct (draw, seed)."""
        ...

    @property
    def patients(self) -> tuple[str, ...]:
        """P patient ids."""
        ...

    def scores(self, weights: Floats) -> Floats:
        """Return M pooled scores of each run under each weighting of the patients: (B, P) -> (B, R, M)."""
        ...

    def shares(self) -> Floats:
        """Return the share of each patient in the truth behind each score, (P, M): columns that add up to 1, or 0."""
        ...


@dataclass(frozen=True, eq=False)
class Scored:
    """M scores of R runs on P patients, or M sums of such scores.

    Attributes:
        runs: R (draw, seed).
        patients: P patient ids.
        point: (R, M) scores on all patients; nan where the truth has nothing to score.
        influence: (P, R, M) influence of each patient.
        shares: (P, M) share of each patient in the truth behind the score.
        prior: (M,) variance of a patient's own score, assumed before any is seen.
        bounded: whether these are scores between 0 and 1, rather than differences.
    """

    runs: tuple[Run, ...]
    patients: tuple[str, ...]
    point: Floats
    influence: Floats
    shares: Floats
    prior: Floats
    bounded: bool = True

    @property
    def mean(self) -> Floats:
        """Mean over runs, (M,)."""
        return np.asarray(self.point.mean(0), dtype=np.float64)

    @property
    def seen(self) -> Floats:
        """Effective number of patients behind each score, (M,): 1 / sum of squared shares (Kish 1965); 0 without."""
        squares = (self.shares**2).sum(0)
        return np.asarray(np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0), dtype=np.float64)

    def only(self, metrics: Sequence[int]) -> Scored:
        """Return the scores in some of the metrics, given by index."""
        where = list(metrics)
        return replace(
            self,
            point=self.point[:, where],
            influence=self.influence[..., where],
            shares=self.shares[:, where],
            prior=self.prior[where],
        )

    def at(self, runs: Sequence[Run]) -> Scored:
        """Return the scores for these runs, in the order given; a method without draws has its seed's for each draw."""
        if tuple(runs) == self.runs:
            return self
        index = {run: i for i, run in enumerate(self.runs)}
        where = [index[run] if run in index else index[None, run[1]] for run in runs]
        return replace(self, runs=tuple(runs), point=self.point[where], influence=self.influence[:, where])


def score(sample: Sample) -> Scored:
    """Score a sample on all its patients, and find the influence of each."""
    n = len(sample.patients)
    point = sample.scores(np.ones((1, n)))[0]
    influence = 2 * (point - sample.scores(1 - np.eye(n) / 2))
    mean = point.mean(0)
    return Scored(sample.runs, sample.patients, point, influence, sample.shares(), SCORE_PRIOR * mean * (1 - mean))


def common_runs(runs: Sequence[Sequence[Run]]) -> tuple[Run, ...]:
    """Return the runs that all have, sorted by draw and seed.

    A method without draws has a run in common with every draw of another with the same seed.

    Examples:
        >>> common_runs([[(0, 0), (1, 0), (1, 1)], [(None, 0)]])
        ((0, 0), (1, 0))
    """
    drawn = [set(own) for own in runs if own[0][0] is not None]
    drawless = [{seed for _, seed in own} for own in runs if own[0][0] is None]
    if not drawn:
        return tuple((None, seed) for seed in sorted(set.intersection(*drawless)))
    found = set.intersection(*drawn)
    return tuple(sorted(((d, s) for d, s in found if all(s in seeds for seeds in drawless)), key=_order))


def combined(parts: Sequence[Scored], weights: Sequence[float]) -> Scored | None:
    """Return sum_i weights_i parts_i, run by run and patient by patient, on their common runs; None if there are none.

    It is a score if the weights are positive and add up to 1, otherwise a difference. Of a difference it is assumed
    that the two agree on a patient much more than two patients do, unless a single patient is behind it.

    Raises:
        DataError: the parts were not scored on the same patients.
    """
    if any(part.patients != parts[0].patients for part in parts):
        raise DataError("a paired difference needs the same test patients on both sides")
    runs = common_runs([part.runs for part in parts])
    if not runs:
        return None
    parts = [part.at(runs) for part in parts]
    bounded = min(weights) >= 0 and bool(np.isclose(sum(weights), 1))
    point = sum(weight * part.point for weight, part in zip(weights, parts, strict=True))
    influence = sum(weight * part.influence for weight, part in zip(weights, parts, strict=True))
    shares, prior = np.mean([part.shares for part in parts], axis=0), np.mean([part.prior for part in parts], axis=0)
    alone = (shares > 0).sum(0) < 2
    if not bounded:
        prior = prior * np.where(alone, 1.0, DIFFERENCE_PRIOR / SCORE_PRIOR)
    return Scored(runs, parts[0].patients, np.asarray(point), np.asarray(influence), shares, prior, bounded)


def pair(a: Scored, b: Scored) -> Scored | None:
    """Return the paired difference a - b on the common runs; None if there are none; raises as ``combined``."""
    return combined([a, b], [1.0, -1.0])


def _order(run: Run) -> tuple[int, int]:
    return (-1 if run[0] is None else run[0], run[1])
