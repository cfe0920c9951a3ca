"""Pseudo-masks that a stage gave to tiles: one compressed record per tile. A ``PseudoSource`` of the data module."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import Json
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.types import Tile
from tissuebench.errors import DataError

_INDEX, _RECORDS, _OFFSETS = "pseudo.json", "pseudo.lz4", "pseudo.npy"


def write_pseudo_masks(folder: Path, masks: Iterable[tuple[Tile, NDArray[np.uint8]]]) -> None:
    """Write (L, H, W) uint8 class ids for each tile; leftovers of an interrupted attempt are overwritten.

    Raises:
        DataError: masks of different shapes or of another dtype, or no masks at all.
    """
    tiles: list[Tile] = []
    offsets = [0]
    shape: tuple[int, ...] | None = None
    with (folder / _RECORDS).open("wb") as file:
        for tile, layers in masks:
            shape = shape or layers.shape
            if layers.dtype != np.uint8 or layers.ndim != 3 or layers.shape != shape:
                raise DataError(
                    f"annotate() gave {layers.dtype} {layers.shape}; (L, H, W) uint8 of one shape is needed"
                )
            file.write(imagecodecs.lz4_encode(np.ascontiguousarray(layers).tobytes(), header=True))
            tiles.append(tile)
            offsets.append(file.tell())
        file.flush()
        os.fsync(file.fileno())
    if shape is None:
        raise DataError("annotate() received no tiles")
    np.save(folder / _OFFSETS, np.array(offsets, dtype=np.int64))
    listed: Json = [[tile.slide_id, tile.y, tile.x] for tile in tiles]
    write_hashed_json(folder / _INDEX, {"shape": list(shape), "tiles": listed})


class PseudoMasks:
    """Pseudo-masks stored in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index, _ = read_hashed_json(folder / _INDEX)
        self._shape = tuple(cast("list[int]", index["shape"]))
        listed = cast("list[tuple[str, int, int]]", index["tiles"])
        self._rows = {Tile(slide_id, y, x): row for row, (slide_id, y, x) in enumerate(listed)}
        self._open()

    def _open(self) -> None:
        self._offsets: NDArray[np.int64] = np.load(self._folder / _OFFSETS)
        self._records = np.memmap(self._folder / _RECORDS, np.uint8, "r")

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_offsets", "_records")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    @staticmethod
    def stand_in(folder: Path) -> bool:
        """Return whether a folder contains pseudo-masks."""
        return (folder / _INDEX).is_file()

    @property
    def tiles(self) -> Collection[Tile]:
        """Tiles that have pseudo-masks."""
        return self._rows.keys()

    def read(self, tiles: Sequence[Tile]) -> NDArray[np.uint8]:
        """Return the class ids of ``tiles``, (B, L, H, W) uint8."""
        result = np.empty((len(tiles), *self._shape), dtype=np.uint8)
        for place, row in enumerate(self._rows[tile] for tile in tiles):
            record = self._records[self._offsets[row] : self._offsets[row + 1]].tobytes()
            result[place] = np.frombuffer(imagecodecs.lz4_decode(record, header=True), np.uint8).reshape(self._shape)
        return result
