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
import shutil
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from tissuebench.datasets.files import read_hashed_json, require_safe_id, write_hashed_json
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, LabelCosts
from tissuebench.errors import DataError
from tissuebench.hashing import Json, content_hash

FORMAT_VERSION = 1
TISSUE_DOWNSAMPLE = 16
_CHUNK_PX = 256
_SHARD_PX = 4096
_MANIFEST = "manifest.json"

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
        if not (path / _MANIFEST).is_file():
            raise DataError(f"{path}: this store was never sealed; delete it and run 'tissuebench data ingest' again")
        manifest, self.content_hash = read_hashed_json(path / _MANIFEST)
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
        document = cast("dict[str, Any]", read_hashed_json(self.path / _MANIFEST)[0])
        for record in document["slides"]:
            for name, key in (("0", "image_sha256"), ("labels/annotation/0", "label_sha256")):
                if _digest(self._read(record["slide_id"], name)) != record[key]:
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


class StoreWriter:
    """Writes a store aside and seals it by renaming: a store is whole or not there.

    Args:
        path: where the sealed store will stand; must not exist yet.
        info: dataset name, mpp, tile size, costs.
        class_map: the classes of its label rasters.

    Raises:
        DataError: something stands at ``path`` already.
    """

    def __init__(self, path: Path, info: StoreInfo, class_map: ClassMap) -> None:
        if path.exists():
            raise DataError(f"{path}: a store stands here already and stores are immutable; delete it first")
        self.path, self._info, self._class_map = path, info, class_map
        self._aside = path.with_name(path.name + ".partial")
        if self._aside.exists():
            shutil.rmtree(self._aside)
        self._aside.mkdir(parents=True)
        zarr.create_group(self._aside)
        zarr.create_group(self._aside / "slides")
        self._records: dict[str, dict[str, Json]] = {}

    def add(
        self, slide_id: str, patient_id: str, diagnosis: tuple[str, ...], image: Pixels, labels: Pixels, tissue: Pixels
    ) -> None:
        """Write one slide.

        Args:
            slide_id: unique, usable as a file name.
            patient_id: the unit of splits and budgets.
            diagnosis: diagnoses of the case; several if mixed, empty if unknown.
            image: (H, W, 3) uint8 RGB at the store's mpp.
            labels: (H, W) uint8 class ids, 255 = not annotated.
            tissue: (ceil(H/16), ceil(W/16)) uint8 of 0 and 1.

        Raises:
            DataError: the slide id is unusable or was added before.
        """
        require_safe_id("slide id", slide_id, str(self.path))
        if slide_id in self._records:
            raise DataError(f"{self.path}: slide id {slide_id!r} appears twice; slide ids must be unique")
        folder = self._aside / "slides" / slide_id
        cyx = np.ascontiguousarray(image.transpose(2, 0, 1))
        n_levels = self._write_pyramid(folder, cyx, label_name=None)
        labels_group = zarr.create_group(folder / "labels")
        labels_group.attrs["ome"] = {"version": "0.5", "labels": ["annotation", "tissue"]}
        for name, raster, base_scale in (("annotation", labels, 1), ("tissue", tissue, TISSUE_DOWNSAMPLE)):
            self._write_pyramid(folder / "labels" / name, raster, name, base_scale, n_levels)
        counts = np.bincount(labels.ravel(), minlength=IGNORE_LABEL + 1)[: len(self._class_map)]
        self._records[slide_id] = {
            "slide_id": slide_id,
            "patient_id": patient_id,
            "diagnosis": list(diagnosis),
            "height": image.shape[0],
            "width": image.shape[1],
            "tissue_fraction": round(float(tissue.mean()), 6),
            "class_pixels": [int(count) for count in counts],
            "image_sha256": _digest(cyx),
            "label_sha256": _digest(labels),
        }

    def seal(self) -> TileStore:
        """Write the manifest, rename the folder, and open it for reading."""
        manifest: dict[str, Json] = {
            "format": FORMAT_VERSION,
            "dataset": self._info.dataset,
            "mpp": self._info.mpp,
            "tile_px": self._info.tile_px,
            "costs": asdict(self._info.costs),
            "source_sha256": self._info.source_sha256,
            "classes": {
                "names": list(self._class_map.names),
                "colors": [list(color) for color in self._class_map.colors],
                "diagnoses": {name: list(allowed) for name, allowed in self._class_map.diagnoses.items()},
            },
            "slides": [self._records[slide_id] for slide_id in sorted(self._records)],
        }
        write_hashed_json(self._aside / _MANIFEST, manifest)
        self._aside.rename(self.path)
        return TileStore(self.path)

    def discard(self) -> None:
        """Remove what was written: after a failure nothing stays half-written."""
        shutil.rmtree(self._aside, ignore_errors=True)

    def _write_pyramid(
        self, folder: Path, full: Pixels, label_name: str | None, base_scale: int = 1, n_levels: int | None = None
    ) -> int:
        # OME-NGFF wants a label to have as many levels as its image: the image decides, the labels follow.
        group = zarr.create_group(folder)
        level = full
        datasets: list[dict[str, Any]] = []
        while True:
            index = len(datasets)
            edge = min(_SHARD_PX, -(-max(level.shape[-2:]) // _CHUNK_PX) * _CHUNK_PX)
            lead = level.shape[:-2]
            group.create_array(
                str(index),
                data=level,
                chunks=(*lead, _CHUNK_PX, _CHUNK_PX),
                shards=(*lead, edge, edge),
                compressors=ZstdCodec(level=1),
                dimension_names=["c", "y", "x"][-level.ndim :],
            )
            scale = (self._info.mpp or 1.0) * base_scale * 2**index
            datasets.append(
                {
                    "path": str(index),
                    "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(lead) + [scale, scale]}],
                }
            )
            if len(datasets) == n_levels or (n_levels is None and min(level.shape[-2:]) <= 2 * _CHUNK_PX):
                break
            level = _halve_image(level) if label_name is None else _halve_labels(level)
        unit = {} if self._info.mpp is None else {"unit": "micrometer"}
        channel = [{"name": "c", "type": "channel"}] if full.ndim == 3 else []
        space: list[dict[str, str]] = [{"name": name, "type": "space", **unit} for name in ("y", "x")]
        ome: dict[str, Any] = {
            "version": "0.5",
            "multiscales": [{"name": label_name or "image", "axes": [*channel, *space], "datasets": datasets}],
        }
        if label_name is not None:
            ome["image-label"] = {"version": "0.5", "source": {"image": "../../"}}
            if label_name == "annotation":
                ome["image-label"]["colors"] = [
                    {"label-value": value, "rgba": [*color, 255]} for value, color in enumerate(self._class_map.colors)
                ]
        group.attrs["ome"] = ome
        return len(datasets)


def _halve_image(cyx: Pixels) -> Pixels:
    """Mean of 2 x 2 pixels, rounded; an odd last row or column is left out."""
    height, width = cyx.shape[1] // 2 * 2, cyx.shape[2] // 2 * 2
    blocks = cyx[:, :height, :width].reshape(cyx.shape[0], height // 2, 2, width // 2, 2).astype(np.uint16)
    return np.asarray((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4, dtype=np.uint8)


def _halve_labels(labels: Pixels) -> Pixels:
    """Every second pixel, of the same size as the halved image; one row or column is kept as it is."""
    height, width = (max(1, side // 2 * 2) for side in labels.shape)
    return np.ascontiguousarray(labels[:height:2, :width:2])


def _digest(array: Pixels) -> str:
    shape = content_hash(list(array.shape))
    return hashlib.sha256(shape.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
