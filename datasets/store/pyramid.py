"""Image and label pyramids as OME-Zarr 0.5, written block by block in constant memory.

Source of the format: OME-NGFF 0.5, sections ``multiscales`` and ``image-label``; Zarr v3 sharding codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from tissuebench.datasets.store.shards import Pixels, ShardCache, read_into

Codec = Literal["lz4", "zstd", "none"]
CHUNK_PX = 256
SHARD_PX = 4096
FILL = 255
"""Fill value, white in an image, "not annotated" in a label raster: chunks of only this value use no disk space."""

# No shuffle: pixels are single bytes. `make perf-tiles` measures this choice on images and labels; the slower encoder
# makes labels three times smaller and twice as fast to decode, but not images.
_COMPRESSORS = {
    "lz4": BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1),
    "zstd": ZstdCodec(level=1),
    "none": None,
}
_LABEL_COMPRESSORS = {**_COMPRESSORS, "lz4": BloscCodec(cname="lz4hc", clevel=5, shuffle="noshuffle", typesize=1)}


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the sizes of a pyramid's levels, each halved until the short side has at most two chunks."""
    shapes = [(height, width)]
    while min(shapes[-1]) > 2 * CHUNK_PX:
        shapes.append((shapes[-1][0] // 2, shapes[-1][1] // 2))
    return shapes


def blocks(height: int, width: int, edge: int = SHARD_PX) -> Iterator[tuple[int, int, int, int]]:
    """Yield (y, x, height, width) of the blocks of a grid, row by row; the last ones end at the slide's edge."""
    for y in range(0, height, edge):
        for x in range(0, width, edge):
            yield y, x, min(edge, height - y), min(edge, width - x)


class PyramidWriter:
    """Writer of one pyramid. Level 0 is filled with ``write``, the other levels are added by ``finish``.

    Args:
        folder: folder of the OME-Zarr group, created here.
        lead: leading axes, (3,) for an image, () for labels.
        size: (height, width) of level 0.
        n_levels: number of levels; OME-NGFF requires the same for labels as for their image.
        scale: micrometres (or pixels, without an mpp) per pixel of level 0.
        unit: "micrometer", or "" if the resolution is unknown.
        codec: compression of the chunks.
        label: name of a label raster; "" for the image.
        colors: RGB of each class, for viewers.
    """

    def __init__(
        self,
        folder: Path,
        lead: tuple[int, ...],
        size: tuple[int, int],
        n_levels: int,
        scale: float,
        unit: str,
        codec: Codec,
        label: str = "",
        colors: tuple[tuple[int, int, int], ...] = (),
    ) -> None:
        self._folder, self._lead, self._label = folder, lead, label
        group = zarr.create_group(folder)
        self._levels: list[zarr.Array[Any]] = []
        shapes = [size]
        while len(shapes) < n_levels:
            shapes.append((max(1, shapes[-1][0] // 2), max(1, shapes[-1][1] // 2)))
        for index, (height, width) in enumerate(shapes):
            edge = shard_edge(height, width)
            self._levels.append(
                group.create_array(
                    str(index),
                    shape=(*lead, height, width),
                    dtype="uint8",
                    chunks=(*lead, CHUNK_PX, CHUNK_PX),
                    shards=(*lead, edge, edge),
                    compressors=(_LABEL_COMPRESSORS if label else _COMPRESSORS)[codec],
                    fill_value=FILL,
                    dimension_names=["c", "y", "x"][-len(lead) - 2 :],
                )
            )
        group.attrs["ome"] = _metadata(lead, n_levels, scale, unit, label, colors)

    def write(self, block: Pixels, y: int, x: int) -> None:
        """Write a block of level 0; blocks from ``blocks(height, width)`` are whole shards and need no reading back."""
        height, width = block.shape[-2:]
        self._levels[0][..., y : y + height, x : x + width] = block

    def finish(self) -> None:
        """Write the other levels, each from the previous one."""
        halve = _halve_labels if self._label else _halve_image
        cache = ShardCache(max_open=4)  # mapped pages count as memory; a block overlaps at most 4 shards
        for index in range(1, len(self._levels)):
            below, above = self._levels[index - 1], self._levels[index]
            total_y, total_x = above.shape[-2:]
            source_y, source_x = below.shape[-2:]
            for y, x, height, width in blocks(total_y, total_x, shard_edge(total_y, total_x)):
                block: Pixels = np.empty((*self._lead, height, width), np.uint8)
                for dy, dx, rows, columns in blocks(height, width, SHARD_PX // 2):
                    top, left = 2 * (y + dy), 2 * (x + dx)
                    fine: Pixels = np.empty(
                        (*self._lead, min(2 * rows, source_y - top), min(2 * columns, source_x - left)), np.uint8
                    )
                    read_into(fine, cache, str(self._folder / str(index - 1)), top, left)
                    block[..., dy : dy + rows, dx : dx + columns] = halve(fine)
                above[..., y : y + height, x : x + width] = block


def shard_edge(height: int, width: int) -> int:
    """Return the edge length of a shard, no larger than the array needs, so that small images remain small files."""
    return min(SHARD_PX, -(-max(height, width) // CHUNK_PX) * CHUNK_PX)


def _metadata(
    lead: tuple[int, ...],
    n_levels: int,
    scale: float,
    unit: str,
    label: str,
    colors: tuple[tuple[int, int, int], ...],
) -> dict[str, Any]:
    units = {"unit": unit} if unit else {}
    channel = [{"name": "c", "type": "channel"}] if lead else []
    axes: list[dict[str, str]] = [*channel, *({"name": name, "type": "space", **units} for name in ("y", "x"))]
    datasets = [
        {
            "path": str(index),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0] * len(lead) + [scale * 2**index, scale * 2**index]}
            ],
        }
        for index in range(n_levels)
    ]
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": label or "image", "axes": axes, "datasets": datasets}],
    }
    if label:
        ome["image-label"] = {"version": "0.5", "source": {"image": "../../"}}
        if colors:
            ome["image-label"]["colors"] = [
                {"label-value": value, "rgba": [*color, 255]} for value, color in enumerate(colors)
            ]
    return ome


def _halve_image(cyx: Pixels) -> Pixels:
    """Return the rounded mean of 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = cyx.shape[1] // 2 * 2, cyx.shape[2] // 2 * 2
    corners = (cyx[:, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1))
    total = np.full((cyx.shape[0], height // 2, width // 2), 2, np.uint16)
    for corner in corners:
        total += corner
    return np.asarray(total >> 2, dtype=np.uint8)


def _halve_labels(labels: Pixels) -> Pixels:
    """Return every second pixel, at the size of the halved image; a single row or column is kept."""
    height, width = (max(1, side // 2 * 2) for side in labels.shape)
    return np.ascontiguousarray(labels[:height:2, :width:2])
