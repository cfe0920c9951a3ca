"""Records of features: one layout for training tiles and windows, in files or in memory.

A shard is a list of blocks. A block lists regions of one slide that have the same size, hence the same shapes of maps;
a region has one record per variant (augmented variants of a tile, views of a window). A record is all maps of an image,
finest first, each (C, H, W). Records follow each other in this order and may differ in length between blocks, so that
offsets follow from the list.

Files: ``index.json`` (the list and the shard's identity, hashed, written last), ``maps.float16`` or ``maps.float32``,
and ``orientations.uint8``, the orientation of each record.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.common.hashing import Json
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.errors import DataError
from tissuebench.features.shards import Shapes, n_values
from tissuebench.plans.trial import short_hash
from tissuebench.runtime.background import read_ahead

_INDEX, _MAPS, _ORIENTATIONS = "index.json", "maps.{}", "orientations.uint8"

Maps = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Block:
    """Regions of one slide that have the same size.

    Attributes:
        height, width: size of the regions in pixels.
        places: (y, x) of their upper left pixels.
        shapes: shapes of the maps of one image.
    """

    slide_id: str
    height: int
    width: int
    places: tuple[tuple[int, int], ...]
    shapes: Shapes


@dataclass(frozen=True, slots=True)
class Batch:
    """Images that are encoded together: number of regions, and values of a record."""

    n_regions: int
    length: int


ReadT = TypeVar("ReadT")


@dataclass(frozen=True, slots=True)
class Encoding(Generic[ReadT]):
    """The work of computing a shard.

    Attributes:
        identity: identity of the shard.
        blocks: its list of regions.
        n_variants: records per region.
        dtype: ``float16`` or ``float32``.
        batches: images that are encoded together; they cover the regions in order.
        read: reads the images of a batch, given its number, in a thread while the batch before it is encoded.
        encode: encodes a batch, given its number and what was read: the records of its regions by variant, each
            (n, length) on the CPU, and their orientations, (n, variants) uint8.
    """

    identity: dict[str, Json]
    blocks: Sequence[Block]
    n_variants: int
    dtype: str
    batches: Sequence[Batch]
    read: Callable[[int], ReadT]
    encode: Callable[[int, ReadT], tuple[list[Tensor], NDArray[np.uint8]]]

    def computed(self, first: int = 0) -> Iterator[tuple[int, Maps, NDArray[np.uint8]]]:
        """Yield batches from the ``first`` on: number, records (n, variants, length), orientations (n, variants)."""
        for number, read in read_ahead(range(first, len(self.batches)), self.read):
            variants, orientations = self.encode(number, read)
            records = np.empty(
                (self.batches[number].n_regions, self.n_variants, self.batches[number].length), self.dtype
            )
            for variant, maps in enumerate(variants):
                records[:, variant] = maps.numpy()
            yield number, records, orientations

    @property
    def ends(self) -> tuple[list[int], list[int]]:
        """Number of values, and of records, up to the end of each batch."""
        records = [batch.n_regions * self.n_variants for batch in self.batches]
        values = [n * batch.length for n, batch in zip(records, self.batches, strict=True)]
        return list(accumulate(values)), list(accumulate(records))

    def document(self) -> dict[str, Json]:
        """Return the content of the index."""
        blocks: list[Json] = [
            {
                "slide_id": block.slide_id,
                "height": block.height,
                "width": block.width,
                "shapes": [list(shape) for shape in block.shapes],
                "places": [list(place) for place in block.places],
            }
            for block in self.blocks
        ]
        return {"identity": self.identity, "variants": self.n_variants, "dtype": self.dtype, "blocks": blocks}


def flattened(maps: Sequence[Tensor], dtype: str) -> Tensor:
    """Return maps of B images as records, (B, length) on the CPU."""
    return torch.cat([each.to(getattr(torch, dtype)).cpu().flatten(1) for each in maps], dim=1)


def write_shard(folder: Path, encoding: Encoding[Any], progress: Callable[[int, int], None]) -> None:
    """Compute a shard in ``folder``, picking up at the batch where an earlier attempt left off.

    Args:
        folder: existing folder of the shard.
        encoding: the work.
        progress: called with the number of regions done and their total.
    """
    ends, record_ends = encoding.ends
    size = np.dtype(encoding.dtype).itemsize
    total = sum(batch.n_regions for batch in encoding.batches)
    with (folder / _MAPS.format(encoding.dtype)).open("ab") as maps, (folder / _ORIENTATIONS).open("ab") as turns:
        done = min(bisect_right(ends, maps.tell() // size), bisect_right(record_ends, turns.tell()))
        maps.truncate(size * ends[done - 1] if done else 0)
        turns.truncate(record_ends[done - 1] if done else 0)
        for number, records, orientations in encoding.computed(done):
            maps.write(records.data)
            turns.write(orientations.data)
            progress(record_ends[number] // encoding.n_variants, total)
        for file in (maps, turns):
            file.flush()
            os.fsync(file.fileno())
    write_hashed_json(folder / _INDEX, encoding.document())


def hold_shard(encoding: Encoding[Any], progress: Callable[[int, int], None]) -> Records:
    """Compute a shard in memory; arguments as for ``write_shard``."""
    ends, record_ends = encoding.ends
    total = sum(batch.n_regions for batch in encoding.batches)
    maps = np.empty(ends[-1] if ends else 0, dtype=encoding.dtype)
    turns = np.empty(record_ends[-1] if ends else 0, dtype=np.uint8)
    for number, records, orientations in encoding.computed():
        end, record_end = ends[number], record_ends[number]
        maps[end - records.size : end] = records.reshape(-1)
        turns[record_end - orientations.size : record_end] = orientations.reshape(-1)
        progress(record_end // encoding.n_variants, total)
    return Records(encoding.document(), maps, turns)


class Records:
    """Records of a shard.

    Args:
        document: content of its index.
        maps: all its values, in order.
        orientations: the orientation of each record.

    Attributes:
        blocks: its list of regions.
        n_variants: records per region.
        maps: by block, (regions, variants, length).
        orientations: by block, (regions, variants) uint8.
        n_bytes: bytes of all arrays.
    """

    def __init__(self, document: dict[str, Json], maps: Maps, orientations: NDArray[np.uint8]) -> None:
        described = cast("dict[str, Any]", document)
        self.n_variants = int(described["variants"])
        self.blocks = tuple(
            Block(
                block["slide_id"],
                block["height"],
                block["width"],
                tuple((y, x) for y, x in block["places"]),
                tuple((c, h, w) for c, h, w in block["shapes"]),
            )
            for block in described["blocks"]
        )
        shapes = [(len(block.places), self.n_variants, n_values(block.shapes)) for block in self.blocks]
        # Indexing a memmap costs more than the copy, hence the view.
        self.maps = _split(maps.view(np.ndarray), shapes)
        self.orientations = _split(orientations, [shape[:2] for shape in shapes])
        self.n_bytes = maps.nbytes + orientations.nbytes


def _split(flat: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> tuple[NDArray[Any], ...]:
    ends = list(accumulate(map(math.prod, shapes), initial=0))
    if flat.size != ends[-1]:
        raise DataError("its files are shorter or longer than its list of regions says")
    return tuple(flat[end - math.prod(shape) : end].reshape(shape) for end, shape in zip(ends[1:], shapes, strict=True))


def open_shard(folder: Path) -> Records:
    """Open the records of a finished shard; its maps are memory-mapped.

    Raises:
        DataError: there is none, or its files do not belong together, for example because a copy was cut off.
    """
    document, _ = read_hashed_json(folder / _INDEX)
    try:
        if short_hash(document["identity"]) != folder.name:
            raise DataError(f"its index is that of another shard, {short_hash(document['identity'])}")
        dtype = np.dtype(cast("str", document["dtype"]))
        path = folder / _MAPS.format(dtype.name)
        n_bytes = path.stat().st_size
        if n_bytes % dtype.itemsize:
            raise DataError(f"{path.name} ends in the middle of a number")
        maps = np.memmap(path, dtype, "r") if n_bytes else np.empty(0, dtype)
        return Records(document, cast("Maps", maps), np.fromfile(folder / _ORIENTATIONS, np.uint8))
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: not usable features ({error}); delete the folder and run the command again"
        ) from None
