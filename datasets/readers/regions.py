"""Helpers for regions that extend beyond an edge and for transparent pixels: both become white, like glass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tissuebench.datasets.readers.reader import Pixels

WHITE = 255


def inside(start: int, length: int, size: int) -> tuple[int, int]:
    """Return the part of ``start .. start + length`` within ``0 .. size`` as (start, end); equal if it is empty."""
    low = min(max(start, 0), size)
    return low, min(max(start + length, low), size)


def cells(start: int, end: int, side: int) -> Iterator[tuple[int, int, int]]:
    """Yield each cell of a fixed grid that overlaps ``start .. end``: its corner, and start and end of the overlap."""
    if end > start:
        for corner in range(start // side * side, end, side):
            yield corner, max(corner, start), min(corner + side, end)


def white(height: int, width: int) -> Pixels:
    """Return a white image, (height, width, 3) uint8."""
    return np.full((height, width, 3), WHITE, dtype=np.uint8)


def on_background(
    rgba: Pixels, background: tuple[int, int, int] = (WHITE,) * 3, *, premultiplied: bool = False
) -> Pixels:
    """Return RGBA pixels (H, W, 4) uint8 blended over a colour, (H, W, 3) uint8.

    Dropping alpha instead would reveal what scanners store in pixels that they never scanned, mostly black.
    """
    colour, alpha = rgba[..., :3], rgba[..., 3:].astype(np.uint16)
    if (alpha == WHITE).all():
        return np.ascontiguousarray(colour)
    behind = np.array(background, dtype=np.uint16) * (WHITE - alpha)
    before = colour.astype(np.uint16) * (WHITE if premultiplied else alpha)
    total = np.minimum(before.astype(np.uint32) + behind, WHITE * WHITE)  # a bad premultiplied file may exceed white
    return np.asarray((total + WHITE // 2) // WHITE, dtype=np.uint8)
