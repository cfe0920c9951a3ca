"""Weak labels derived from stronger ones: complementary classes from diagnoses, tags from masks or their counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.types import ClassMap

MIN_SHARE = 0.01
"""Minimum share of a tile's annotated pixels for a mask to show a class, and for a tag to name it by default; a dataset
may set another value for its tags."""


def excluded_classes(diagnoses: Sequence[str], class_map: ClassMap) -> NDArray[np.bool_]:
    """Return S, the classes that a case's diagnoses rule out: diagnosis-dependent classes that none of them allows.

    A mixed diagnosis allows the classes of all its parts; an unknown diagnosis (empty) excludes nothing. The diagnosis
    itself is never in S: a case of tumour A excludes tumour B.

    Returns:
        (K,) bool.
    """
    if not diagnoses:
        return np.zeros(len(class_map), dtype=np.bool_)
    allowed = {name for diagnosis in diagnoses for name in class_map.diagnoses[diagnosis]}
    flags = [dep and name not in allowed for dep, name in zip(class_map.dependent, class_map.names, strict=True)]
    return np.array(flags, dtype=np.bool_)


def keep_at_most(excluded: NDArray[np.bool_], count: int | None, seed: int) -> NDArray[np.bool_]:
    """Return a random subset of at most ``count`` excluded classes, (K,) bool, determined by ``seed``."""
    members = np.flatnonzero(excluded)
    if count is None or len(members) <= count:
        return excluded
    kept = np.zeros_like(excluded)
    kept[np.random.Generator(np.random.PCG64(seed)).choice(members, size=count, replace=False)] = True
    return kept


def tags_of_counts(counts: NDArray[np.integer], min_share: float = MIN_SHARE) -> NDArray[np.bool_]:
    """Return the classes with at least one pixel and ``min_share`` of a tile's annotated pixels, (..., K) bool.

    Args:
        counts: annotated pixels of each class, (..., K), for one or more tiles.
        min_share: minimum share of the annotated pixels.
    """
    annotated = counts.sum(axis=-1, keepdims=True, dtype=np.int64)
    present: NDArray[np.bool_] = counts >= np.maximum(1.0, min_share * annotated)
    return present


def tags_of_mask(mask: NDArray[np.uint8], n_classes: int, min_share: float = MIN_SHARE) -> NDArray[np.bool_]:
    """Return ``tags_of_counts`` of one tile's mask, (K,) bool."""
    return tags_of_counts(np.bincount(mask.ravel(), minlength=256)[:n_classes], min_share)
