"""StoreWriter: writes a store aside and seals it; the layout stands in ``tissuebench.datasets.store``."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from tissuebench.datasets.files import require_safe_id, write_hashed_json
from tissuebench.datasets.store import (
    FORMAT_VERSION,
    MANIFEST,
    TISSUE_DOWNSAMPLE,
    Pixels,
    StoreInfo,
    TileStore,
    pixel_digest,
)
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import DataError
from tissuebench.hashing import Json

_CHUNK_PX = 256
_SHARD_PX = 4096


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
            "image_sha256": pixel_digest(cyx),
            "label_sha256": pixel_digest(labels),
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
        write_hashed_json(self._aside / MANIFEST, manifest)
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
