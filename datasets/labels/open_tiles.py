"""Accessible labels of one kind, tile by tile: the arithmetic behind the label view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import Tile

Flags = NDArray[np.bool_]


class Opened:
    """Labels that are open, for whole patients and for single tiles.

    Args:
        store: store whose grid the tiles belong to.
        patients: patients whose labels are all open.
        tiles: additional grid tiles that are open.
        for_sale: function that returns which tiles of a slide have such a label at all, (N,) bool in the order of
            ``tiling.grid``.
    """

    def __init__(
        self,
        store: TileStore,
        patients: Collection[str],
        tiles: Collection[Tile],
        for_sale: Callable[[TileStore, str], Flags],
    ) -> None:
        self._store, self._for_sale = store, for_sale
        self._tile_px = store.info.tile_px
        self._patients = frozenset(patients)
        single: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for tile in tiles:
            single[tile.slide_id].add((tile.y, tile.x))
        self._single = dict(single)
        self._flags: dict[str, Flags] = {}

    def any_of(self, slide: SlideInfo) -> bool:
        """Return whether any label of the slide is open."""
        return slide.patient_id in self._patients or slide.slide_id in self._single

    def covers(self, slide: SlideInfo, y: int, x: int, height: int, width: int) -> bool:
        """Return whether the region is open: all of the patient's labels are, or it lies in a single open tile."""
        if slide.patient_id in self._patients:
            return True
        tiles, edge = self._single.get(slide.slide_id, set()), self._tile_px
        if height == width == edge:
            return (y, x) in tiles
        return any(
            top <= y and left <= x and y + height <= top + edge and x + width <= left + edge for top, left in tiles
        )

    def flags(self, slide: SlideInfo) -> Flags:
        """Return the open tiles that have a label, (N,) bool in the order of ``tiling.grid``."""
        if slide.slide_id not in self._flags:
            flags = self._for_sale(self._store, slide.slide_id)
            if slide.patient_id not in self._patients:
                single = np.zeros_like(flags)
                for y, x in self._single.get(slide.slide_id, ()):
                    index = grid_index(slide, y, x, self._tile_px)
                    if index is not None:
                        single[index] = True
                flags = flags & single
            self._flags[slide.slide_id] = flags
        return self._flags[slide.slide_id]


def flagged(slide: SlideInfo, flags: Flags, tile_px: int) -> list[Tile]:
    """Return the tiles of ``tiling.grid`` where ``flags``, (N,) bool, is true."""
    if not flags.any():
        return []
    return [tile for tile, flag in zip(grid(slide, tile_px), flags.tolist(), strict=True) if flag]


def grid_index(slide: SlideInfo, y: int, x: int, tile_px: int) -> int | None:
    """Return the index in ``tiling.grid`` of the tile that starts at (``y``, ``x``); None if it is not on the grid."""
    row, column = _position(y, slide.height, tile_px), _position(x, slide.width, tile_px)
    if row is None or column is None:
        return None
    return row * -(-slide.width // tile_px) + column


def _position(start: int, length: int, tile_px: int) -> int | None:
    """Return the index of a start in ``tiling.offsets``, without building that list."""
    last = max(0, length - tile_px)
    if start == last:
        return -(-length // tile_px) - 1
    return start // tile_px if 0 <= start < last and start % tile_px == 0 else None
