"""Estimates with 95 % intervals and p values, both from one distribution (``variance``).

A score s with variance V gets the interval of Wilson (1927) for an effective sample of s (1 - s) / V units (Korn &
Graubard 1998; Dean & Pagano 2015), with the quantile c of its distribution: all theta with

    (s - theta)^2 <= c^2 V theta (1 - theta) / (s (1 - s))

It lies within [0, 1], leans towards 1/2, and is never a point: at s = 0 or 1, where V is 0, the effective number of
patients takes the place of the sample. A difference d gets d +- c(.05) sqrt(V), and the p with c(p) = |d| / sqrt(V), so
p < .05 exactly where the interval leaves out 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tissuebench.results.metrics import Floats
from tissuebench.results.stats.scored import Sample, Scored, pair, score
from tissuebench.results.stats.variance import LEVEL, spread


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimates of M scores or differences, each array (M,); nan where there is nothing to score.

    Attributes:
        mean: mean over runs on all patients.
        low, high: 95 % interval.
        p: two-sided p of no difference; nan for scores.
    """

    mean: Floats
    low: Floats
    high: Floats
    p: Floats


def estimate(scored: Scored) -> Estimate:
    """Return the mean over runs with its interval and, for a difference, its p."""
    mean, error = scored.mean, spread(scored)
    reach = error.quantile(LEVEL)
    if scored.bounded:
        low, high = _wilson(mean, error.total, reach, scored.seen)
        return Estimate(mean, low, high, np.full_like(mean, np.nan))
    one = np.sqrt(error.total)
    low, high = np.clip(mean - reach * one, -1, 1), np.clip(mean + reach * one, -1, 1)
    return Estimate(mean, low, high, error.p(np.abs(mean) / one))


def score_interval(sample: Sample) -> Estimate:
    """Estimate every score of a sample.

    Examples:
        >>> from pathlib import Path
        >>> from tissuebench.results.records.result_store import ResultStore
        >>> from tissuebench.results.tables.comparable import comparable_results
        >>> from tissuebench.results.tables.panel import panels
        >>> (panel,) = panels(comparable_results(ResultStore(Path("runs/results")))[0])
        >>> score_interval(panel.cells["supervised", "minutes:60"]).low.shape == (len(panel.metrics),)
        True
    """
    return estimate(score(sample))


def paired_difference(a: Sample, b: Sample) -> Estimate | None:
    """Estimate a - b in every score, on the same draws, seeds, and patients; None if they have no run in common.

    Raises:
        DataError: they were not tested on the same patients.

    Examples:
        >>> from pathlib import Path
        >>> from tissuebench.results.records.result_store import ResultStore
        >>> from tissuebench.results.tables.comparable import comparable_results
        >>> from tissuebench.results.tables.panel import panels
        >>> (panel,) = panels(comparable_results(ResultStore(Path("runs/results")))[0])
        >>> a, b = panel.cells["multilayer_pseudo", "minutes:60"], panel.cells["supervised", "minutes:60"]
        >>> paired_difference(a, b).p.shape == (len(panel.metrics),)
        True
    """
    both = pair(score(a), score(b))
    return None if both is None else estimate(both)


def _wilson(mean: Floats, total: Floats, t: Floats, n_patients: Floats) -> tuple[Floats, Floats]:
    """Ends of the score interval, (M,) each."""
    unit = mean * (1 - mean)
    inside = unit > 1e-12
    safe_n = np.where(n_patients > 0, n_patients, 1.0)
    ratio = np.where(inside, t**2 * total / np.where(inside, unit, 1.0), t**2 / safe_n)  # t^2 over the sample's size
    half = np.sqrt(ratio * unit + ratio**2 / 4)
    low, high = (mean + ratio / 2 - half) / (1 + ratio), (mean + ratio / 2 + half) / (1 + ratio)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)
