"""Rank tests of methods over several blocks: Friedman's test and Nemenyi's critical difference.

From scores (N, k) of k methods on N blocks, r_j the average rank of a method (1 is best, ties share their mean):

    chi2_F = 12 N / (k (k + 1)) sum_j (r_j - (k + 1) / 2)^2           Friedman 1937
    F_F = (N - 1) chi2_F / (N (k - 1) - chi2_F)                       Iman & Davenport 1980
    CD = q_.05 sqrt(k (k + 1) / (6 N))                                Nemenyi 1963

as in Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006), 3.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import scipy.stats

from tissuebench.results.metrics import Floats

ALPHA = 0.05


class FriedmanForm(StrEnum):
    """Form of the statistic: tie-corrected chi-squared (as in scipy), or Iman and Davenport's less conservative F."""

    CHI_SQUARED = "chi_squared"
    IMAN_DAVENPORT = "iman_davenport"


@dataclass(frozen=True)
class TestOfRanks:
    """A statistic and its p; both nan with fewer than two blocks or methods."""

    __test__ = False  # not a pytest test

    statistic: float
    p: float


def ranks(scores: Floats, *, lower_is_better: bool = False) -> Floats:
    """Ranks within each block, (..., k): 1 is best, ties share the mean of their ranks."""
    better = scores if lower_is_better else -scores
    below = (better[..., None, :] < better[..., :, None]).sum(-1)
    equal = (better[..., None, :] == better[..., :, None]).sum(-1)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


def friedman(ranked: Floats, form: FriedmanForm = FriedmanForm.CHI_SQUARED) -> TestOfRanks:
    """Test ranks (N, k) for equal average ranks of all methods; p is 1 if every block ties all methods."""
    n, k = ranked.shape
    if n < 2 or k < 2:
        return TestOfRanks(float("nan"), float("nan"))
    between = n * ((ranked.mean(0) - (k + 1) / 2) ** 2).sum()
    plain = 12 * between / (k * (k + 1))
    if form is FriedmanForm.IMAN_DAVENPORT:
        left = n * (k - 1) - plain
        statistic = float("inf") if left <= 1e-9 else (n - 1) * plain / left
        return TestOfRanks(float(statistic), float(scipy.stats.f.sf(statistic, k - 1, (k - 1) * (n - 1))))
    within = ((ranked - (k + 1) / 2) ** 2).sum() / (n * (k - 1))  # k (k + 1) / 12 without ties
    if within == 0:
        return TestOfRanks(0.0, 1.0)
    return TestOfRanks(float(between / within), float(scipy.stats.chi2.sf(between / within, k - 1)))


def critical_difference(n_methods: int, n_blocks: int) -> float:
    """Critical difference of two average ranks at 5 % (Nemenyi)."""
    q = float(scipy.stats.studentized_range.ppf(1 - ALPHA, n_methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks)))


def nemenyi(average: Floats, n_blocks: int) -> Floats:
    """Pairwise p values (k, k) of methods with average ranks (k,); 1 on the diagonal."""
    k = len(average)
    apart = np.abs(average[:, None] - average) / np.sqrt(k * (k + 1) / (6 * n_blocks))
    p = np.ones((k, k))
    one, two = np.triu_indices(k, 1)
    if len(one):
        p[one, two] = p[two, one] = scipy.stats.studentized_range.sf(apart[one, two] * np.sqrt(2), k, np.inf)
    return np.clip(p, 0.0, 1.0)


def alike(average: Sequence[float] | npt.NDArray[np.float64], difference: float) -> list[tuple[int, int]]:
    """Maximal ranges [first, last] of sorted average ranks within ``difference``: the bars of a CD diagram."""
    found: list[tuple[int, int]] = []
    for first in range(len(average)):
        last = max(i for i in range(first, len(average)) if average[i] - average[first] <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
