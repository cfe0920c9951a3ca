"""Probability of a complementary label given the true class: a column of the transition matrix Q."""

from __future__ import annotations

from functools import lru_cache
from math import comb

import torch
from torch import Tensor

Flags = tuple[bool, ...]


def observation_probabilities(
    excluded: Tensor, of_diagnoses: Tensor, balanced: bool = True, max_excluded: int | None = None
) -> Tensor:
    """Return ``Q[c, S] = P(S is observed | Y = c)`` for the excluded set S of each sample, under the sampler in use.

    ``Q[c, S] = w_S / sum over S' without c of w_S'`` for c not in S, else 0: w_S is the share of complementary samples
    with the set S, and a class is assumed equally frequent under all diagnoses that allow it. With diagnoses D equally
    frequent among the cases that exclude a class (they need not be overall), and a case keeping each of the
    ``C(n_D, m_D)`` subsets of ``m_D = min(max_excluded, n_D)`` of its n_D excluded classes with the same probability,

        w_S = sum over D that may keep S of 1 / C(n_D, m_D) * sum over e in S of 1 / (|E| Z_e),
        Z_e = sum over D that exclude e of m_D / n_D,

    E being all classes that some diagnosis excludes: the sampler draws an excluded class e, then a case that excludes
    it. Without ``balanced`` the sampler draws tiles, whose number per diagnosis is unknown here; diagnoses are then
    taken to be equally frequent, and the last sum is 1 over their number. A set that no diagnosis leaves, as of a case
    with two diagnoses, counts as that of a further diagnosis.

    Args:
        excluded: (B, K) bool, S.
        of_diagnoses: (D, K) bool, the classes that each diagnosis excludes.
        balanced: whether the excluded class is drawn first.
        max_excluded: number of excluded classes that a case keeps; None for all.

    Returns:
        (B, K) float32; 1 everywhere for a sample that excludes nothing.

    Examples:
        >>> of_diagnoses = torch.tensor([[False, False, True], [False, True, False]])  # shared, A, B
        >>> observation_probabilities(torch.tensor([[False, False, True]]), of_diagnoses)
        tensor([[0.5000, 1.0000, 0.0000]])
    """
    sets = tuple(tuple(row) for row in of_diagnoses.tolist() if any(row))
    columns = [_column(tuple(row), sets, balanced, max_excluded) for row in excluded.tolist()]
    return torch.tensor(columns, dtype=torch.float32, device=excluded.device).view(excluded.shape)


@lru_cache(maxsize=4096)
def _column(observed: Flags, sets: tuple[Flags, ...], balanced: bool, max_excluded: int | None) -> tuple[float, ...]:
    """Return Q[:, S] for S = ``observed``, given the non-empty sets of all diagnoses."""
    classes = range(len(observed))
    if not any(observed):
        return tuple(1.0 for _ in classes)
    size = sum(observed)
    if not any(_may_keep(each, observed, max_excluded) for each in sets):
        sets = (*sets, observed)
    sizes = [(sum(each), min(sum(each), max_excluded or sum(each))) for each in sets]  # n_D, m_D
    reached = [sum(m / n for each, (n, m) in zip(sets, sizes, strict=True) if each[c]) for c in classes]  # Z
    n_excluded = sum(z > 0 for z in reached)
    share = [1 / (n_excluded * z) if z else 0.0 for z in reached]

    def weight_with(c: int) -> float:
        """Return the summed w of all sets that contain c."""
        total = 0.0
        for each, (n, m) in zip(sets, sizes, strict=True):
            if each[c]:
                both = m / n * (m - 1) / (n - 1) if n > 1 else 0.0  # probability that c and another class are kept
                others = sum(share[e] for e in classes if each[e] and e != c)
                total += m / n * share[c] + both * others if balanced else m / n / len(sets)
        return total

    subsets = sum(1 / comb(sum(each), size) for each in sets if _may_keep(each, observed, max_excluded))
    weight = subsets * (sum(share[c] for c in classes if observed[c]) if balanced else 1 / len(sets))
    return tuple(0.0 if observed[c] else min(1.0, weight / (1 - weight_with(c))) for c in classes)


def _may_keep(of_diagnosis: Flags, kept: Flags, max_excluded: int | None) -> bool:
    """Return whether a case that excludes ``of_diagnosis`` may keep exactly the classes ``kept``."""
    size = sum(of_diagnosis)
    inside = all(own or not wanted for own, wanted in zip(of_diagnosis, kept, strict=True))
    return inside and sum(kept) == min(size, max_excluded or size)
