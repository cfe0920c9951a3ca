"""Reader of scattered regions from a sharded zarr array, at the speed of the page cache.

A general zarr library spends most of a tile's time on bookkeeping. This reader only supports the layout that
``store_writer`` writes: zarr v3, uint8, chunks that span all leading axes, the ``sharding_indexed`` codec with its
index at the end, chunks raw or compressed with Blosc or Zstandard. It memory-maps the shards, verifies the checksum of
a shard's index on first access, and decodes chunks directly into the caller's array.

Source of the format: Zarr v3 core specification; "Sharding codec" (ZEP 2), version 1.0.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from tissuebench.errors import DataError

Pixels = NDArray[np.uint8]

_MISSING = 2**64 - 1
_MAX_OPEN_SHARDS = 256
_CODECS = ("none", "blosc", "zstd")
_decoders: Any = imagecodecs  # its stubs do not cover array arguments


@dataclass(frozen=True, slots=True)
class _Shard:
    data: Pixels  # the mapped file
    index: list[tuple[int, int]]  # offset and length of each chunk, row by row


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of an array on disk. ``chunk_px`` and ``shard_px`` are edge lengths; leading axes are never split."""

    shape: tuple[int, ...]
    chunk_px: int
    shard_px: int
    codec: str
    fill_value: int


class ShardCache:
    """Cache of open shards that evicts the least recently used; a copy in another process starts empty.

    Threads may share one.
    """

    def __init__(self, max_open: int = _MAX_OPEN_SHARDS) -> None:
        self._max_open = max_open
        self._open: OrderedDict[tuple[str, int, int], _Shard | None] = OrderedDict()
        self._layouts: dict[str, Layout] = {}
        self._pid, self._lock = os.getpid(), threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {"_max_open": self._max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_max_open"])  # type: ignore[misc]

    def layout(self, array: str) -> Layout:
        """Return the layout of the array in the folder ``array``; raises as ``read_layout``."""
        if array not in self._layouts:
            self._layouts[array] = read_layout(Path(array))
        return self._layouts[array]

    def shard(self, array: str, layout: Layout, row: int, column: int) -> _Shard | None:
        """Return an open shard; None if it contains only the fill value."""
        if self._pid != os.getpid():  # after a fork: sharing mapped memory is safe, sharing the bookkeeping is not
            self._open, self._lock = OrderedDict(), threading.Lock()
            self._pid = os.getpid()  # last: another thread of this process must not see the lock of the parent
        key = (array, row, column)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
            lead = ("0",) * (len(layout.shape) - 2)
            opened = _open_shard(Path(array, "c", *lead, str(row), str(column)), layout)
            self._open[key] = opened
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
            return opened


def read_layout(array: Path) -> Layout:
    """Read the layout of an array from its ``zarr.json``.

    Raises:
        DataError: missing, or not the layout that this reader supports.
    """
    try:
        document = json.loads((array / "zarr.json").read_text())
        (sharding,) = document["codecs"]
        settings = sharding["configuration"]
        names = [codec["name"] for codec in settings["codecs"]]
        index_names = [codec["name"] for codec in settings["index_codecs"]]
        chunk, shard = settings["chunk_shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        shape = tuple(int(side) for side in document["shape"])
        known = (
            document["zarr_format"] == 3
            and document["data_type"] == "uint8"
            and document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
            and sharding["name"] == "sharding_indexed"
            and settings.get("index_location", "end") == "end"
            and index_names == ["bytes", "crc32c"]
            and names[0] == "bytes"
            and len(names) <= 2
            and chunk[:-2] == shard[:-2] == list(shape[:-2])
            and chunk[-1] == chunk[-2]
            and shard[-1] == shard[-2]
        )
        codec = names[1] if len(names) == 2 else "none"
        if not known or codec not in _CODECS:
            raise ValueError("another layout")
        return Layout(shape, int(chunk[-1]), int(shard[-1]), codec, int(document["fill_value"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{array}: not an array of a tile store ({' '.join(str(error).split())})") from None


def read_into(out: Pixels, cache: ShardCache, array: str, y: int, x: int) -> None:
    """Fill ``out`` (..., height, width) with the region that starts at (``y``, ``x``); 255 beyond the edge.

    Raises:
        DataError: not an array of this layout, or a shard is damaged.
    """
    layout = cache.layout(array)
    edge = layout.chunk_px
    height, width = out.shape[-2:]
    total_y, total_x = layout.shape[-2:]
    bottom, right = min(y + height, total_y), min(x + width, total_x)
    aligned = height == edge == width and bottom - y == edge == right - x and not (y % edge or x % edge)
    if aligned and out.flags.c_contiguous:  # a tile of the grid: decoded in place, no cropping
        chunk = _chunk(out, cache, array, layout, y // edge, x // edge)
        if chunk is not out:
            np.copyto(out, chunk)
        return
    if bottom < y + height or right < x + width:
        out[...] = 255  # white in an image, "not annotated" in a label raster
        if bottom <= y or right <= x:
            return
    scratch: Pixels = np.empty((*out.shape[:-2], edge, edge), np.uint8)
    for row in range(y // edge, -(-bottom // edge)):
        top = row * edge
        first, last = max(top, y), min(top + edge, bottom)
        for column in range(x // edge, -(-right // edge)):
            left = column * edge
            start, stop = max(left, x), min(left + edge, right)
            chunk = _chunk(scratch, cache, array, layout, row, column)
            part = chunk[..., first - top : last - top, start - left : stop - left]
            out[..., first - y : last - y, start - x : stop - x] = part


def _chunk(scratch: Pixels, cache: ShardCache, array: str, layout: Layout, row: int, column: int) -> Pixels:
    """Return a whole chunk: a raw one as a view of the file, any other decoded into ``scratch``, contiguous."""
    per_shard = layout.shard_px // layout.chunk_px
    shard = cache.shard(array, layout, row // per_shard, column // per_shard)
    start, length = (_MISSING, 0) if shard is None else shard.index[row % per_shard * per_shard + column % per_shard]
    if shard is None or start == _MISSING:
        scratch[...] = layout.fill_value
        return scratch
    encoded = shard.data[start : start + length]
    try:
        if layout.codec == "none":
            return encoded.reshape(scratch.shape)
        flat = scratch.reshape(-1)
        if layout.codec == "blosc":
            decoded = _decoders.blosc_decode(encoded, numthreads=1, out=flat)
        else:
            decoded = _decoders.zstd_decode(encoded, out=flat)
        if decoded.size != flat.size:
            raise ValueError(f"{decoded.size} of {flat.size} bytes")
    except (ValueError, RuntimeError, imagecodecs.BloscError, imagecodecs.ZstdError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{array}: chunk ({row}, {column}) is damaged ({reason}); ingest again") from None
    return scratch


def _open_shard(path: Path, layout: Layout) -> _Shard | None:
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); ingest again") from None
    per_shard = layout.shard_px // layout.chunk_px
    size = per_shard * per_shard * 16
    tail = data[max(0, len(data) - size - 4) :]
    if len(tail) != size + 4 or crc32c(tail[:size]) != int.from_bytes(tail[size:], "little"):
        raise DataError(f"{path}: the shard's index is damaged (its checksum does not hold); ingest again")
    entries = np.frombuffer(tail[:size], "<u8").tolist()  # Python integers: looked up for every tile
    return _Shard(np.frombuffer(data, np.uint8), list(zip(entries[::2], entries[1::2], strict=True)))
