"""Tiling of a slide: a grid whose last row and column are shifted back to end at the edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.store.tile_store import SlideInfo
from tissuebench.datasets.types import Tile


def offsets(length: int, tile: int, stride: int | None = None) -> list[int]:
    """Return the starts of windows of ``tile`` px that cover ``length`` px, the last one flush with the end."""
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, stride or tile))
    return [*starts, length - tile]


def origins(height: int, width: int, tile_px: int) -> NDArray[np.int64]:
    """Return the upper left pixels (y, x) of all tiles of a slide, row by row, (N, 2) int64."""
    return np.array([(y, x) for y in offsets(height, tile_px) for x in offsets(width, tile_px)], dtype=np.int64)


def grid(slide: SlideInfo, tile_px: int) -> list[Tile]:
    """Return all tiles of a slide, row by row."""
    return [Tile(slide.slide_id, y, x) for y, x in origins(slide.height, slide.width, tile_px).tolist()]
