"""Regions that may hang over an edge, and pixels that may be transparent: both end on white, as glass is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tissuebench.datasets.readers.reader import Pixels

WHITE = 255


def inside(start: int, length: int, size: int) -> tuple[int, int]:
    """First and last-plus-one of ``start .. start + length`` within ``0 .. size``; equal where nothing is."""
    low = min(max(start, 0), size)
    return low, min(max(start + length, low), size)


def cells(start: int, end: int, side: int) -> Iterator[tuple[int, int, int]]:
    """Of each cell of a fixed grid that ``start .. end`` touches: its corner, and the part of it that lies inside."""
    if end > start:
        for corner in range(start // side * side, end, side):
            yield corner, max(corner, start), min(corner + side, end)


def white(height: int, width: int) -> Pixels:
    """(height, width, 3) uint8 of white."""
    return np.full((height, width, 3), WHITE, dtype=np.uint8)


def on_background(
    rgba: Pixels, background: tuple[int, int, int] = (WHITE,) * 3, *, premultiplied: bool = False
) -> Pixels:
    """(H, W, 4) uint8 laid over a colour, (H, W, 3) uint8.

    Dropping the alpha instead would show what scanners leave in pixels that they never took, mostly black.
    """
    colour, alpha = rgba[..., :3], rgba[..., 3:].astype(np.uint16)
    if (alpha == WHITE).all():
        return np.ascontiguousarray(colour)
    behind = np.array(background, dtype=np.uint16) * (WHITE - alpha)
    before = colour.astype(np.uint16) * (WHITE if premultiplied else alpha)
    total = np.minimum(before.astype(np.uint32) + behind, WHITE * WHITE)  # a wrong premultiplied file may exceed white
    return np.asarray((total + WHITE // 2) // WHITE, dtype=np.uint8)
