"""Several comparisons at once: Holm's adjustment, and the set of methods that are not told from the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

ALPHA = 0.05


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


def among_best(
    means: Mapping[str, float], p_values: Mapping[tuple[str, str], float], *, lower_is_better: bool = False
) -> set[str]:
    """Return the best mean and all that are not told from it by p adjusted over all pairs; empty with fewer than two.

    So of equal methods any is left out in at most 5 % of tables, whatever the dependence between the pairs. Comparing
    each with the best only, as Hsu's MCB (1996) and Dunnett's test do, guards the best alone: of nine equal methods,
    one is then left out far more often. Between all pairs, the joint distribution (Tukey's, max-t) gains little on
    Holm's bound: of nine methods with a common variance, a p of .0019 in place of .0014 at the first step. And with
    three draws the variances of the pairs differ, and their joint distribution is hardly known.

    Args:
        means: score of each method.
        p_values: p of each pair (a, b) with a < b; a missing or nan p tells nothing apart.
        lower_is_better: whether the score is an error.

    Examples:
        >>> sorted(among_best({"a": 0.7, "b": 0.69, "c": 0.5}, {("a", "b"): 0.6, ("a", "c"): 0.001, ("b", "c"): 0.02}))
        ['a', 'b']
    """
    if len(means) < 2:
        return set()
    sign = 1.0 if lower_is_better else -1.0
    best = min(means, key=lambda name: (sign * means[name], name))
    pairs = [both for both in p_values if set(both) <= set(means)]
    adjusted = dict(zip(pairs, holm([p_values[both] for both in pairs]), strict=True))
    return {name for name in means if not adjusted.get((min(name, best), max(name, best)), 1.0) < ALPHA}
