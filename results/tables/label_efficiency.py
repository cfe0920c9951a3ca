"""Label efficiency: the score of a method over annotation minutes, and the minutes needed to reach a goal.

The curve of a method is its score at each of its budgets, interpolated linearly over log minutes.

- *area*: the mean height of the curve over the range of minutes that all methods of the data set have in common.
- *minutes*: the point where the curve first reaches a share of the score of ``full``; censored if the smallest budget
  already does, or the largest does not.

Intervals are those of the leaderboard: each bootstrap draw gives a curve and a score of ``full`` on the same patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tissuebench.results.metrics import Floats
from tissuebench.results.stats.bootstrap import PERCENTILES

SHARE = 0.95


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
    """Scores of one method over its budgets.

    Attributes:
        minutes: (N,) increasing, above 0; N >= 2.
        mean: (N,) estimated scores.
        draws: (B, N) scores under each bootstrap draw.
    """

    minutes: Floats
    mean: Floats
    draws: Floats


def common_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Return the range of minutes that all curves cover; None if it is empty or a single point."""
    first = max(float(curve.minutes[0]) for curve in curves)
    last = min(float(curve.minutes[-1]) for curve in curves)
    return (first, last) if last > first else None


def area(minutes: Floats, scores: Floats, first: float, last: float) -> Floats:
    """Mean height over log minutes of the curves ``scores`` (..., N) from ``first`` to ``last``: (...)."""
    inner = minutes[(minutes > first) & (minutes < last)]
    x = np.log(np.concatenate([[first], inner, [last]]))
    at = np.stack([_height(np.log(minutes), scores, value) for value in x], -1)
    return np.asarray(np.trapezoid(at, x, axis=-1) / (x[-1] - x[0]), dtype=np.float64)


def minutes_to(minutes: Floats, scores: Floats, goals: Floats) -> Floats:
    """Minutes until curves ``scores`` (B, N) first reach ``goals`` (B,): 0 at the start, inf if never, nan for nan."""
    out = np.full(len(scores), math.inf)
    x = np.log(minutes)
    for i in range(len(minutes) - 1, 0, -1):  # the first crossing is written last
        low, high = scores[:, i - 1], scores[:, i]
        crosses = (low < goals) & (high >= goals)
        share = np.divide(goals - low, high - low, out=np.zeros_like(low), where=crosses)
        out = np.where(crosses, np.exp(x[i - 1] + share * (x[i] - x[i - 1])), out)
    out = np.where(scores[:, 0] >= goals, 0.0, out)
    return np.where(np.isnan(scores).any(1) | np.isnan(goals), np.nan, out)


def efficiency(
    dataset: str, metric: str, curves: Mapping[str, Curve], full: tuple[float, Floats] | None
) -> list[EfficiencyRow]:
    """Return one row per method, in the order given.

    Args:
        dataset: name of the dataset.
        metric: name of the metric.
        curves: curve of each method.
        full: score of full supervision, and its score under each draw (B,).
    """
    span = common_range(list(curves.values())) if curves else None
    rows = []
    for method, curve in curves.items():
        height: tuple[float | None, float | None, float | None] = (None, None, None)
        if span is not None:
            ends = _ends(area(curve.minutes, curve.draws, *span))
            height = (_number(float(area(curve.minutes, curve.mean, *span))), *ends)
        needed: tuple[float | None, float | None, float | None] = (None, None, None)
        if full is not None:
            estimate = minutes_to(curve.minutes, curve.mean[None], np.array([SHARE * full[0]]))[0]
            needed = (_number(estimate), *_ends(minutes_to(curve.minutes, curve.draws, SHARE * full[1])))
        rows.append(
            EfficiencyRow(
                dataset=dataset,
                method=method,
                metric=metric,
                n_budgets=len(curve.minutes),
                first=None if span is None else span[0],
                last=None if span is None else span[1],
                area=height[0],
                area_low=height[1],
                area_high=height[2],
                minutes=needed[0],
                minutes_low=needed[1],
                minutes_high=needed[2],
                smallest=float(curve.minutes[0]),
                largest=float(curve.minutes[-1]),
            )
        )
    return rows


def _height(x: Floats, scores: Floats, at: float) -> Floats:
    right = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    return np.asarray((1 - share) * scores[..., right - 1] + share * scores[..., right], dtype=np.float64)


def _ends(draws: Floats) -> tuple[float | None, float | None]:
    """Percentiles of draws, some of which may be infinite: actual values of draws, without interpolation."""
    there = draws[~np.isnan(draws)]
    if not there.size:
        return None, None
    low, high = np.percentile(there, PERCENTILES, method="inverted_cdf")
    return float(low), float(high)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
