"""Counts behind the boundary F1: how much of the boundary of each class lies near a boundary of the same class.

The boundary F1 of Csurka et al. (BMVC 2013): boundary pixels match within a tolerance in any direction; precision is
the matched share of the predicted boundary, recall that of the true one. The counts are additive over slides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from tissuebench.datasets.types import IGNORE_LABEL


def boundary_counts(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int, tolerance_px: float
) -> NDArray[np.int64]:
    """(K, 4) for each class: true boundary pixels, those matched, predicted boundary pixels, those matched.

    Both maps are clipped to the annotated area. A boundary pixel of a class has a 4-neighbour of another one in it:
    neither the edge of the slide nor that of the annotation is a boundary. It is matched if a boundary pixel of the
    same class in the other map is at most ``tolerance_px`` away (Euclidean, between centres).

    Memory is that of a few masks of the slide; time grows with the boundaries and not with the slide.

    Args:
        truth: (H, W) class ids, ``IGNORE_LABEL`` where nothing is annotated.
        predicted: (H, W) class ids.
        n_classes: K.
        tolerance_px: 0 or more.
    """
    true_edges = _boundary_pixels(truth)
    predicted_edges = _boundary_pixels(np.where(truth == IGNORE_LABEL, IGNORE_LABEL, predicted))
    counts = np.zeros((n_classes, 4), dtype=np.int64)
    for label in range(n_classes):
        ours, theirs = true_edges.get(label), predicted_edges.get(label)
        counts[label] = (*_matched(ours, theirs, tolerance_px), *_matched(theirs, ours, tolerance_px))
    return counts


def _boundary_pixels(labels: NDArray[np.uint8]) -> dict[int, NDArray[np.int64]]:
    """(N, 2) places of the boundary pixels of each class that has any."""
    edge = np.zeros(labels.shape, dtype=np.bool_)
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        one, other = labels[before], labels[after]
        differ = (one != other) & (one != IGNORE_LABEL) & (other != IGNORE_LABEL)
        edge[before] |= differ
        edge[after] |= differ
    places = np.argwhere(edge)
    found = labels[edge]  # in the order of argwhere
    return {int(label): places[found == label] for label in np.unique(found)}


def _matched(pixels: NDArray[np.int64] | None, others: NDArray[np.int64] | None, within: float) -> tuple[int, int]:
    """How many pixels there are, and how many of them have one of the others within this distance."""
    if pixels is None:
        return 0, 0
    if others is None:
        return len(pixels), 0
    # the bound itself is left out by the tree: a hair more
    distances, _ = KDTree(others).query(pixels, distance_upper_bound=within * (1 + 1e-9) + 1e-9)
    return len(pixels), int(np.isfinite(distances).sum())
