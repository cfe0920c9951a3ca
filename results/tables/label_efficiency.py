"""Label efficiency: the score of a method over annotation minutes, and the minutes needed to reach a goal.

The curve of a method is its score at each of its budgets, interpolated linearly over log minutes.

- *area*: the mean height of the curve over the range of minutes that all methods of the data set have in common.
- *minutes*: the point where the curve first reaches a share of the score of ``full``; censored if the smallest budget
  already does, or the largest does not.

Both have intervals by the variance model of the leaderboard. The area is a weighted mean of the scores at the budgets,
on the same draws, seeds and patients. The interval of the minutes is every point of the curve whose difference to the
goal, ``SHARE`` of the score of ``full``, is not told from 0: from the first where it may be reached to the first where
it surely is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tissuebench.results.metrics import Floats
from tissuebench.results.stats.intervals import estimate
from tissuebench.results.stats.scored import Scored, combined

SHARE = 0.95
_POINTS = 101
"""Points at which each stretch between two budgets is compared with the goal."""


@dataclass(frozen=True)
class EfficiencyRow:
    """One method of one data set in one metric.

    Attributes:
        n_budgets: number of points of the curve.
        first, last: common range of minutes; None if there is none, and then there is no area either.
        area, area_low, area_high: mean height over that range, and its 95 % interval; None without a score.
        minutes, minutes_low, minutes_high: minutes to reach ``SHARE`` of ``full``: 0 if the smallest budget already
            does, infinite if the largest does not, None without ``full``.
        smallest, largest: smallest and largest budget of the method, in minutes.
    """

    dataset: str
    method: str
    metric: str
    n_budgets: int
    first: float | None
    last: float | None
    area: float | None
    area_low: float | None
    area_high: float | None
    minutes: float | None
    minutes_low: float | None
    minutes_high: float | None
    smallest: float
    largest: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores of one method over its budgets: N >= 2 increasing minutes, above 0, and the single score at each."""

    minutes: tuple[float, ...]
    scores: tuple[Scored, ...]

    @property
    def mean(self) -> Floats:
        """Estimated scores, (N,)."""
        return np.array([scored.mean[0] for scored in self.scores])


def common_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Return the range of minutes that all curves cover; None if it is empty or a single point."""
    first = max(float(curve.minutes[0]) for curve in curves)
    last = min(float(curve.minutes[-1]) for curve in curves)
    return (first, last) if last > first else None


def area_weights(minutes: Sequence[float], first: float, last: float) -> Floats:
    """Weights of N scores whose weighted sum is the mean height over log minutes (N,), from ``first`` to ``last``."""
    x = np.log(minutes)
    inner = x[(x > math.log(first)) & (x < math.log(last))]
    knots = np.concatenate([[math.log(first)], inner, [math.log(last)]])
    heights = np.stack([np.interp(knots, x, unit) for unit in np.eye(len(x))])
    return np.asarray(np.trapezoid(heights, knots, axis=1) / (knots[-1] - knots[0]), dtype=np.float64)


def minutes_to(minutes: Sequence[float], scores: Floats, goal: float) -> float:
    """Minutes until a curve of ``scores`` (N,) first reaches ``goal``: 0 at the start, inf if never, nan for nan."""
    if np.isnan(scores).any() or math.isnan(goal):
        return math.nan
    if scores[0] >= goal:
        return 0.0
    x = np.log(minutes)
    for i in range(1, len(x)):
        low, high = scores[i - 1], scores[i]
        if low < goal <= high:
            return float(np.exp(x[i - 1] + (goal - low) / (high - low) * (x[i] - x[i - 1])))
    return math.inf


def efficiency(dataset: str, metric: str, curves: Mapping[str, Curve], full: Scored | None) -> list[EfficiencyRow]:
    """Return one row per method, in the order given.

    Args:
        dataset: name of the dataset.
        metric: name of the metric.
        curves: curve of each method.
        full: score of full supervision.
    """
    span = common_range(list(curves.values())) if curves else None
    rows = []
    for method, curve in curves.items():
        area = (None, None, None) if span is None else _area(curve, *span)
        needed = (None, None, None) if full is None else _needed(curve, full)
        rows.append(
            EfficiencyRow(
                dataset=dataset,
                method=method,
                metric=metric,
                n_budgets=len(curve.minutes),
                first=None if span is None else span[0],
                last=None if span is None else span[1],
                area=area[0],
                area_low=area[1],
                area_high=area[2],
                minutes=needed[0],
                minutes_low=needed[1],
                minutes_high=needed[2],
                smallest=curve.minutes[0],
                largest=curve.minutes[-1],
            )
        )
    return rows


_Ends = tuple[float | None, float | None, float | None]
"""Estimate, low, high."""


def _area(curve: Curve, first: float, last: float) -> _Ends:
    weights = area_weights(curve.minutes, first, last)
    value = _number(float(weights @ curve.mean))
    whole = combined(curve.scores, weights.tolist())
    if whole is None or value is None:
        return value, None, None
    found = estimate(whole)
    return value, _number(float(found.low[0])), _number(float(found.high[0]))


def _needed(curve: Curve, full: Scored) -> _Ends:
    value = _number(minutes_to(curve.minutes, curve.mean, SHARE * float(full.mean[0])))
    if value is None:
        return None, None, None
    at, above = [], []
    for i in range(1, len(curve.minutes)):
        share = np.linspace(0, 1, _POINTS)
        between = [_times(curve.scores[i - 1], 1 - share), _times(curve.scores[i], share)]
        both = combined([*between, _times(full, np.full(_POINTS, -SHARE))], [1.0, 1.0, 1.0])
        if both is None:
            return value, None, None
        ends = np.log(curve.minutes[i - 1 : i + 1])
        at.append(np.exp(ends[0] + share * (ends[1] - ends[0])))
        above.append(estimate(both))
    at[0][0] = 0.0  # reached at the smallest budget: by how few minutes is unknown
    points = np.concatenate(at)
    maybe = points[np.concatenate([one.high for one in above]) >= 0]
    surely = points[np.concatenate([one.low for one in above]) >= 0]
    return value, min([value, *maybe[:1].tolist()]), max([value, *(surely[:1].tolist() or [math.inf])])


def _times(scored: Scored, weights: Floats) -> Scored:
    """Return a single score times each of the weights, (M,)."""
    return replace(
        scored,
        point=scored.point * weights,
        influence=scored.influence * weights,
        shares=np.repeat(scored.shares, len(weights), axis=1),
        prior=np.repeat(scored.prior, len(weights)),
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
