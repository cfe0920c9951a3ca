"""Writer of one slide of a store, block by block: any process can write any slide, in bounded memory."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from tissuebench.common.hashing import Json
from tissuebench.datasets.documents import read_hashed_json, require_safe_id, write_hashed_json
from tissuebench.datasets.store.digest import RasterDigest, array_digest
from tissuebench.datasets.store.pyramid import Codec, PyramidWriter, blocks, level_shapes
from tissuebench.datasets.store.shards import Pixels
from tissuebench.datasets.store.thumbnail import write_thumbnail
from tissuebench.datasets.store.tile_store import TISSUE_DOWNSAMPLE
from tissuebench.datasets.store.tiling import origins
from tissuebench.datasets.store.tissue import shrink, tile_shares, tissue_mask
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import DataError


class SlideSource(Protocol):
    """Source of a slide at the store's mpp, read in blocks. ``height`` and ``width`` are in pixels."""

    @property
    def height(self) -> int: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    def image(self, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a block of the image, (height, width, 3) uint8 RGB."""
        ...

    def labels(self, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a block of the labels, (height, width) uint8 class ids, 255 = not annotated."""
        ...

    def finish(self, tissue: Pixels) -> tuple[str, ...]:
        """Return notes on what was read, given the slide's tissue mask; called once, after the last block.

        Raises:
            DataError: what was read cannot be meant.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """Properties that all slides of a store share: folder, resolution, tile size, classes and codec."""

    folder: Path
    mpp: float | None
    tile_px: int
    class_map: ClassMap
    codec: Codec


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a slide; shown in the report, not part of the content hash.

    Attributes:
        fingerprint: fingerprint of the source files; if it changes the slide is converted again.
        notes: what was repaired or clipped, one line each.
        metadata: further information in the source file.
    """

    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_slide(
    spec: StoreSpec,
    slide_id: str,
    source: SlideSource,
    provenance: Provenance,
    tissue: Pixels | None = None,
) -> tuple[str, ...]:
    """Write one slide; it is complete once its record exists.

    Args:
        spec: the store.
        slide_id: usable as a file name.
        source: pixels and labels.
        provenance: origin of the pixels and labels.
        tissue: (ceil(H/16), ceil(W/16)) uint8 of 0 and 1; by default detected in the image.

    Returns:
        All notes: those of ``provenance`` and those of the source.

    Raises:
        DataError: the id is unusable, the source cannot be read, the source refuses, or the slide shows no tissue.
        OSError: the disk is full.
    """
    require_safe_id("slide id", slide_id, str(spec.folder))
    staged = spec.folder / "slides" / f".{slide_id}.{uuid.uuid4().hex}.partial"
    try:
        facts, tile_tissue, tile_classes, tissue = _write_rasters(spec, staged, slide_id, source, tissue)
        notes = (*provenance.notes, *source.finish(tissue))
        drop_slide(spec.folder, slide_id)
        staged.rename(spec.folder / "slides" / slide_id)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    write_thumbnail(spec.folder, slide_id, tissue, spec.class_map)
    records = spec.folder / "records"
    records.mkdir(exist_ok=True)
    np.savez(records / f"{slide_id}.npz", tissue=tile_tissue, class_pixels=tile_classes)
    write_hashed_json(
        records / f"{slide_id}.json",
        {
            "facts": facts,
            "fingerprint": provenance.fingerprint,
            "notes": list(notes),
            "metadata": dict(provenance.metadata),
        },
    )
    return notes


def written_slides(folder: Path) -> dict[str, Provenance]:
    """Return the provenance of the completely written slides, by id."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        document, _ = read_hashed_json(path)
        found[path.stem] = Provenance(
            cast("str", document["fingerprint"]),
            tuple(cast("list[str]", document["notes"])),
            cast("Mapping[str, str]", document["metadata"]),
        )
    return found


def written_pictures(folder: Path) -> dict[str, str]:
    """Return the hash of the pixels of each completely written slide, by id."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        document, _ = read_hashed_json(path)
        found[path.stem] = str(cast("dict[str, Json]", document["facts"])["image_sha256"])
    return found


def drop_slide(folder: Path, slide_id: str) -> None:
    """Remove a slide, its record first, so that it never counts as complete."""
    for path in (f"records/{slide_id}.json", f"records/{slide_id}.npz", f"thumbnails/{slide_id}.jpg"):
        (folder / path).unlink(missing_ok=True)
    shutil.rmtree(folder / "slides" / slide_id, ignore_errors=True)


def _write_rasters(
    spec: StoreSpec, staged: Path, slide_id: str, source: SlideSource, tissue: Pixels | None
) -> tuple[dict[str, Json], NDArray[np.float32], NDArray[np.uint32], Pixels]:
    height, width = source.height, source.width
    n_levels = len(level_shapes(height, width))
    scale, unit = (1.0, "") if spec.mpp is None else (spec.mpp, "micrometer")
    image = PyramidWriter(staged, (3,), (height, width), n_levels, scale, unit, spec.codec)
    labels_group = zarr.create_group(staged / "labels")
    labels_group.attrs["ome"] = {"version": "0.5", "labels": ["annotation", "tissue"]}
    labels = PyramidWriter(
        staged / "labels" / "annotation",
        (),
        (height, width),
        n_levels,
        scale,
        unit,
        spec.codec,
        "annotation",
        spec.class_map.colors,
    )
    small = np.empty((-(-height // TISSUE_DOWNSAMPLE), -(-width // TISSUE_DOWNSAMPLE), 3), np.uint8)
    starts = origins(height, width, spec.tile_px)
    tile_classes = np.zeros((len(starts), len(spec.class_map)), np.uint32)
    image_digest, label_digest = RasterDigest((3, height, width)), RasterDigest((height, width))
    counts = np.zeros(IGNORE_LABEL + 1, np.int64)
    for y, x, rows, columns in blocks(height, width):
        pixels = source.image(y, x, rows, columns)
        part = shrink(pixels)
        small_y, small_x = y // TISSUE_DOWNSAMPLE, x // TISSUE_DOWNSAMPLE
        small[small_y : small_y + part.shape[0], small_x : small_x + part.shape[1]] = part
        cyx = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        del pixels
        image.write(cyx, y, x)
        image_digest.update(cyx)
        del cyx
        raster = source.labels(y, x, rows, columns)
        labels.write(raster, y, x)
        label_digest.update(raster)
        counts += np.bincount(raster.ravel(), minlength=IGNORE_LABEL + 1)
        _count_tiles(tile_classes, starts, spec.tile_px, raster, y, x)
    tissue = tissue_mask(small) if tissue is None else tissue
    if not tissue.any():
        raise DataError(f"slide {slide_id!r}: no tissue found, all of it looks like glass; leave it out")
    image.finish()
    labels.finish()
    mask = PyramidWriter(
        staged / "labels" / "tissue",
        (),
        (tissue.shape[0], tissue.shape[1]),
        n_levels,
        scale * TISSUE_DOWNSAMPLE,
        unit,
        spec.codec,
        "tissue",
    )
    for y, x, rows, columns in blocks(*tissue.shape):
        mask.write(tissue[y : y + rows, x : x + columns], y, x)
    mask.finish()
    tile_tissue = tile_shares(tissue, starts, spec.tile_px)
    facts: dict[str, Json] = {
        "slide_id": slide_id,
        "height": height,
        "width": width,
        "tissue_fraction": round(float(tissue.mean()), 6),
        "class_pixels": [int(count) for count in counts[: len(spec.class_map)]],
        "n_tiles": len(starts),
        "image_sha256": image_digest.hexdigest(),
        "label_sha256": label_digest.hexdigest(),
        "tissue_sha256": array_digest(tissue),
        "tiles_sha256": array_digest(tile_tissue, tile_classes),
    }
    return facts, tile_tissue, tile_classes, tissue


def _count_tiles(
    table: NDArray[np.uint32], starts: NDArray[np.int64], tile_px: int, raster: Pixels, y: int, x: int
) -> None:
    """Add this block's class counts to ``table`` for the tiles that it overlaps."""
    if (raster == IGNORE_LABEL).all():
        return
    ends = np.array([y + raster.shape[0], x + raster.shape[1]])
    touched = np.flatnonzero(((starts + tile_px > [y, x]) & (starts < ends)).all(axis=1))
    for index in touched:
        top, left = starts[index] - [y, x]
        part = raster[max(top, 0) : top + tile_px, max(left, 0) : left + tile_px]
        table[index] += np.bincount(part.ravel(), minlength=IGNORE_LABEL + 1)[: table.shape[1]].astype(np.uint32)
