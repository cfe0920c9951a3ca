"""Tiles of a slide: a grid whose last row and column are shifted back to the edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.store import TISSUE_DOWNSAMPLE, SlideInfo, TileStore
from tissuebench.datasets.types import Tile


def offsets(length: int, tile: int, stride: int | None = None) -> list[int]:
    """Starts of windows of ``tile`` px that cover ``length`` px, the last one flush with the end."""
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, stride or tile))
    return [*starts, length - tile]


def grid(slide: SlideInfo, tile_px: int) -> list[Tile]:
    """All tiles of a slide, row by row."""
    return [Tile(slide.slide_id, y, x) for y in offsets(slide.height, tile_px) for x in offsets(slide.width, tile_px)]


def tissue_share(store: TileStore, tile: Tile, tile_px: int) -> float:
    """Share of a tile that the tissue mask marks, 0 to 1."""
    mask: NDArray[np.uint8] = store.tissue(tile.slide_id)
    y, x, size = tile.y // TISSUE_DOWNSAMPLE, tile.x // TISSUE_DOWNSAMPLE, max(1, tile_px // TISSUE_DOWNSAMPLE)
    return float(mask[y : y + size, x : x + size].mean())
