"""TileStore: slides and label rasters as OME-Zarr 0.5, sealed under one content hash, immutable from then on.

Layout (zarr v3, sharded)::

    store.zarr/manifest.json                      written last: its presence is the seal
    store.zarr/slides/<slide_id>/0..n             image pyramid, (3, Y, X) uint8
    store.zarr/slides/<slide_id>/labels/annotation/0..n   class ids, (Y, X) uint8, 255 = not annotated
    store.zarr/slides/<slide_id>/labels/tissue/0  1 = tissue, (Y, X) uint8, at 1/16

Source of the format: OME-NGFF 0.5, sections ``multiscales`` and ``image-label``.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from tissuebench.datasets.files import read_hashed_json
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, LabelCosts
from tissuebench.errors import DataError
from tissuebench.hashing import Json, content_hash

FORMAT_VERSION = 1
TISSUE_DOWNSAMPLE = 16
MANIFEST = "manifest.json"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What is known of a slide without any label. ``height``, ``width`` in pixels at the store's mpp."""

    slide_id: str
    patient_id: str
    height: int
    width: int
    tissue_fraction: float


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What is known of a store as a whole.

    ``mpp`` is None where the source does not publish it; ``source_sha256`` tells which manifest it was made from.
    """

    dataset: str
    mpp: float | None
    tile_px: int
    costs: LabelCosts
    source_sha256: str = ""


class WithheldLabels:
    """Every label of a store. Only the label door, the budgets and the splits may hold one (a test says so)."""

    def __init__(self, store: TileStore, records: dict[str, dict[str, Json]]) -> None:
        self._store = store
        self._records = records

    def mask(self, slide_id: str, y: int, x: int, height: int, width: int) -> Pixels:
        """Class ids of a region, (height, width) uint8."""
        return self._store._region(slide_id, "labels/annotation/0", y, x, height, width)

    def diagnosis(self, slide_id: str) -> tuple[str, ...]:
        """The diagnoses of a slide's case; several for a mixed one, none where it is unknown."""
        return tuple(cast("list[str]", self._records[slide_id]["diagnosis"]))

    def class_pixels(self, slide_id: str) -> tuple[int, ...]:
        """Annotated pixels of each class."""
        return tuple(cast("list[int]", self._records[slide_id]["class_pixels"]))


class TileStore:
    """A sealed store, opened for reading. Arrays are opened lazily, so that a worker process opens its own.

    Args:
        path: the ``store.zarr`` folder.
        cache_bytes: decoded slides kept in memory, least recently used out first.

    Raises:
        DataError: there is no store, or it was never sealed, or its manifest was edited.
    """

    def __init__(self, path: Path, cache_bytes: int = 1 << 30) -> None:
        self.path = path
        if not path.is_dir():
            raise DataError(f"{path}: no such store; run 'tissuebench data ingest'")
        if not (path / MANIFEST).is_file():
            raise DataError(f"{path}: this store was never sealed; delete it and run 'tissuebench data ingest' again")
        manifest, self.content_hash = read_hashed_json(path / MANIFEST)
        if manifest.get("format") != FORMAT_VERSION:
            raise DataError(f"{path}: store format {manifest.get('format')!r}, this version reads {FORMAT_VERSION}")
        document = cast("dict[str, Any]", manifest)
        self.info = StoreInfo(
            dataset=document["dataset"],
            mpp=document["mpp"],
            tile_px=document["tile_px"],
            costs=LabelCosts(**document["costs"]),
            source_sha256=document["source_sha256"],
        )
        self.class_map = ClassMap(
            names=tuple(document["classes"]["names"]),
            colors=tuple((c[0], c[1], c[2]) for c in document["classes"]["colors"]),
            diagnoses={name: tuple(allowed) for name, allowed in document["classes"]["diagnoses"].items()},
        )
        records = {record["slide_id"]: record for record in document["slides"]}
        self.slides: dict[str, SlideInfo] = {
            slide_id: SlideInfo(slide_id, r["patient_id"], r["height"], r["width"], r["tissue_fraction"])
            for slide_id, r in records.items()
        }
        self.withheld = WithheldLabels(self, records)
        self._cache: OrderedDict[tuple[str, str], Pixels] = OrderedDict()
        self._cache_bytes = cache_bytes

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": OrderedDict()}

    def image(self, slide_id: str, y: int, x: int, height: int, width: int) -> Pixels:
        """A region, (3, height, width) uint8 RGB; white beyond the slide's edge."""
        return self._region(slide_id, "0", y, x, height, width)

    def tissue(self, slide_id: str) -> Pixels:
        """The tissue mask at 1/16, (ceil(H/16), ceil(W/16)) uint8 of 0 and 1."""
        return self._array(slide_id, "labels/tissue/0")

    def verify(self) -> None:
        """Read everything and compare with the manifest.

        Raises:
            DataError: a slide's pixels are not those that were sealed.
        """
        document = cast("dict[str, Any]", read_hashed_json(self.path / MANIFEST)[0])
        for record in document["slides"]:
            for name, key in (("0", "image_sha256"), ("labels/annotation/0", "label_sha256")):
                if pixel_digest(self._read(record["slide_id"], name)) != record[key]:
                    raise DataError(f"{self.path}: slide {record['slide_id']} has changed since it was sealed ({name})")

    def _region(self, slide_id: str, name: str, y: int, x: int, height: int, width: int) -> Pixels:
        array = self._array(slide_id, name)
        region = array[..., y : y + height, x : x + width]
        if region.shape[-2:] == (height, width):
            return region
        fill = IGNORE_LABEL  # white for images, "not annotated" for labels: both 255
        padded = np.full((*region.shape[:-2], height, width), fill, dtype=np.uint8)
        padded[..., : region.shape[-2], : region.shape[-1]] = region
        return padded

    def _array(self, slide_id: str, name: str) -> Pixels:
        key = (slide_id, name)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        array = self._read(slide_id, name)
        array.setflags(write=False)  # regions are views of it
        self._cache[key] = array
        while sum(kept.nbytes for kept in self._cache.values()) > self._cache_bytes and len(self._cache) > 1:
            self._cache.popitem(last=False)
        return array

    def _read(self, slide_id: str, name: str) -> Pixels:
        if slide_id not in self.slides:
            raise DataError(f"{self.path}: no slide {slide_id!r}")
        opened = zarr.open_array(self.path / "slides" / slide_id / name, mode="r")
        return np.asarray(opened[...], dtype=np.uint8)


def pixel_digest(array: Pixels) -> str:
    """Sha256 of shape and pixels."""
    shape = content_hash(list(array.shape))
    return hashlib.sha256(shape.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
