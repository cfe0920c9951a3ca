"""Counts behind the boundary F1: how much of the boundary of each class lies near a boundary of the same class.

The boundary F1 follows Csurka et al. (BMVC 2013): boundary pixels match within a tolerance in any direction; precision
is the matched share of the predicted boundary, recall that of the true one. The counts are additive over slides.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.types import IGNORE_LABEL


def boundary_counts(
    truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    n_classes: int,
    tolerance_px: float,
    counted: tuple[slice, slice] = (slice(None), slice(None)),
) -> NDArray[np.int64]:
    """Return (K, 4) per class: true boundary pixels, those matched, predicted boundary pixels, those matched.

    Both maps are clipped to the annotated area. A boundary pixel of a class has a 4-neighbour of another class within
    that area: neither the edge of the slide nor that of the annotation is a boundary. It is matched if a boundary pixel
    of the same class in the other map is at most ``tolerance_px`` away (Euclidean, between centres).

    Eight classes are processed at once, one bit each; time grows with the slide's area and the tolerance, memory is a
    few maps.

    Args:
        truth: (H, W) class ids, ``IGNORE_LABEL`` where nothing is annotated.
        predicted: (H, W) class ids.
        n_classes: K.
        tolerance_px: 0 or more.
        counted: rows and columns whose pixels are counted; the others, ``margin_px`` around them, are only context.
    """
    true = _edges(truth)
    found = _edges(np.where(truth == IGNORE_LABEL, IGNORE_LABEL, predicted))
    rows: list[list[int]] = []
    for first in range(0, n_classes, 8):
        ours, theirs = _bits(truth, true, first), _bits(predicted, found, first)
        columns = (ours, ours & _dilated(theirs, tolerance_px), theirs, theirs & _dilated(ours, tolerance_px))
        bits = range(min(8, n_classes - first))
        rows += [[int(np.count_nonzero(column[counted] & np.uint8(1 << bit))) for column in columns] for bit in bits]
    return np.array(rows, dtype=np.int64)


def margin_px(tolerance_px: float) -> int:
    """Return the margin that the maps need around a block for its counts: the tolerance, plus one neighbour."""
    return math.floor(tolerance_px + 1e-9) + 1


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return whether each pixel has a 4-neighbour of another class, (H, W)."""
    edge = np.zeros(labels.shape, dtype=np.bool_)
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        one, other = labels[before], labels[after]
        differ = (one != other) & (one != IGNORE_LABEL) & (other != IGNORE_LABEL)
        edge[before] |= differ
        edge[after] |= differ
    return edge


def _bits(labels: NDArray[np.uint8], edge: NDArray[np.bool_], first: int) -> NDArray[np.uint8]:
    """Return (H, W) with bit k set in the edge pixels of class ``first + k``, k = 0..7."""
    of_class = np.zeros(256, dtype=np.uint8)
    of_class[first : first + 8] = 1 << np.arange(len(of_class[first : first + 8]))
    bits = np.zeros(labels.shape, dtype=np.uint8)
    at = np.flatnonzero(edge)  # few: looking up every pixel takes ten times as long
    bits.ravel()[at] = of_class[labels.ravel()[at]]
    return bits


def _dilated(bits: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Return a map in which each pixel has the bits of all pixels within ``radius``."""
    height, width = bits.shape
    out = np.zeros_like(bits)
    rows = bits.copy()  # the bits of a pixel's row, ``reach`` to either side
    reach = 0
    for dy in range(math.floor(radius + 1e-9), -1, -1):  # from the rim of the disc, where it is narrow, to its middle
        while (reach + 1) ** 2 + dy**2 <= radius**2 + 1e-9:
            reach += 1
            left = max(0, width - reach)
            rows[:, reach:] |= bits[:, :left]
            rows[:, :left] |= bits[:, reach:]
        top = max(0, height - dy)
        out[dy:] |= rows[:top]
        out[:top] |= rows[dy:]
    return out
