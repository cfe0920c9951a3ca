"""Writer that collects written slides into a store and seals it; see ``tile_store`` for the layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import zarr

from tissuebench.common.files import write_aside
from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.store.pyramid import Codec
from tissuebench.datasets.store.shards import Pixels
from tissuebench.datasets.store.slide_writer import (
    Provenance,
    StoreSpec,
    drop_slide,
    write_slide,
    written_pictures,
    written_slides,
)
from tissuebench.datasets.store.tile_store import (
    FORMAT_VERSION,
    MANIFEST,
    SOURCE,
    TILE_CLASSES,
    TILE_TISSUE,
    StoreInfo,
    TileStore,
)
from tissuebench.datasets.types import ClassMap
from tissuebench.datasets.weak_labels import MIN_SHARE
from tissuebench.errors import DataError

_WRITTEN_AS = "written_as.json"


@dataclass(frozen=True, slots=True)
class Case:
    """Case of a slide, known without reading pixels: patient, diagnoses, and image-level tags if given."""

    patient_id: str
    diagnosis: tuple[str, ...] = ()
    tags: tuple[str, ...] | None = None


class StoreWriter:
    """Writer of a store in a temporary folder, sealed by renaming: a store is complete or does not exist.

    Slides that an earlier writer finished with the same settings are kept, so an interrupted one picks up where it left
    off.

    Args:
        path: path of the sealed store.
        info: properties of the store as a whole.
        class_map: the classes of its label rasters.
        codec: compression of the chunks; not part of the content hash, as the pixels are the same.
        settings: other settings that determine the pixels of a slide; if they differ, all slides are written again.
        update: reopen a sealed store to change, add or remove slides.

    Raises:
        DataError: ``path`` already exists and ``update`` is not set.
    """

    def __init__(
        self,
        path: Path,
        info: StoreInfo,
        class_map: ClassMap,
        codec: Codec = "lz4",
        settings: Json = None,
        update: bool = False,
    ) -> None:
        self.path, self._info, self._class_map = path, info, class_map
        self.folder = path.with_name(path.name + ".partial")
        if path.exists() and not update:
            raise DataError(f"{path}: a store stands here already and stores are immutable; delete it first")
        if path.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            path.rename(self.folder)
            (self.folder / MANIFEST).unlink(missing_ok=True)
        self.spec = StoreSpec(self.folder, info.mpp, info.tile_px, class_map, codec)
        written_as = json.dumps(
            content_hash(
                {
                    "format": FORMAT_VERSION,
                    "mpp": info.mpp,
                    "tile_px": info.tile_px,
                    "classes": [list(class_map.names), [list(color) for color in class_map.colors]],
                    "codec": codec,
                    "settings": settings,
                }
            )
        ).encode()
        marker = self.folder / _WRITTEN_AS
        if not marker.is_file() or marker.read_bytes() != written_as:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            zarr.create_group(self.folder)
            zarr.create_group(self.folder / "slides")
            write_aside(marker, written_as)
        for leftover in (self.folder / "slides").glob(".*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._cases: dict[str, Case] = {}

    def finished(self) -> dict[str, Provenance]:
        """Return the provenance of the completely written slides, by id."""
        return written_slides(self.folder)

    def pictures(self) -> dict[str, str]:
        """Return the hash of the pixels of each completely written slide, by id."""
        return written_pictures(self.folder)

    def add(
        self, slide_id: str, patient_id: str, diagnosis: tuple[str, ...], image: Pixels, labels: Pixels, tissue: Pixels
    ) -> None:
        """Write one slide from memory.

        Args:
            slide_id: unique, usable as a file name.
            patient_id: the unit of splits and budgets.
            diagnosis: diagnoses of the case, several if mixed, empty if unknown.
            image: (H, W, 3) uint8 RGB at the store's mpp.
            labels: (H, W) uint8 class ids, 255 = not annotated.
            tissue: (ceil(H/16), ceil(W/16)) uint8 of 0 and 1.

        Raises:
            DataError: the slide id is unusable or was added before.
        """
        if slide_id in self._cases:
            raise DataError(f"{self.path}: slide id {slide_id!r} appears twice; slide ids must be unique")
        write_slide(self.spec, slide_id, _InMemory(image, labels), Provenance(), tissue)
        self._cases[slide_id] = Case(patient_id, diagnosis)

    def seal(self, cases: Mapping[str, Case] | None = None) -> TileStore:
        """Write tables and manifest, rename the folder, and open the store for reading.

        Args:
            cases: the slides that belong to the store; other written slides are removed. By default those written by
                ``add``.

        Raises:
            DataError: one of the slides was not written, or there is none.
        """
        cases = self._cases if cases is None else cases
        for slide_id in set(self.finished()) - set(cases):
            drop_slide(self.folder, slide_id)
        records: dict[str, dict[str, Json]] = {}
        for slide_id in sorted(cases):
            document, _ = read_hashed_json(self.folder / "records" / f"{slide_id}.json")
            case = cases[slide_id]
            records[slide_id] = {
                **cast("dict[str, Json]", document["facts"]),
                "patient_id": case.patient_id,
                "diagnosis": list(case.diagnosis),
                "tags": None if case.tags is None else list(case.tags),
            }
        self._write_tables(records)
        manifest: dict[str, Json] = {
            "format": FORMAT_VERSION,
            "dataset": self._info.dataset,
            "mpp": self._info.mpp,
            "tile_px": self._info.tile_px,
            "costs": self._info.costs.document(),
            "classes": {
                "names": list(self._class_map.names),
                "colors": [list(color) for color in self._class_map.colors],
                "diagnoses": {name: list(allowed) for name, allowed in self._class_map.diagnoses.items()},
            },
            "slides": [records[slide_id] for slide_id in sorted(records)],
        }
        # Defaults are left out, as before these settings existed, so that content hashes do not change.
        if self._info.min_tag_share != MIN_SHARE:
            manifest["min_tag_share"] = self._info.min_tag_share
        if self._info.white is not None:
            manifest["white"] = asdict(self._info.white)
        if self._info.stain != "none":
            manifest["stain"] = self._info.stain
        write_hashed_json(self.folder / SOURCE, {"sha256": self._info.source_sha256})
        write_hashed_json(self.folder / MANIFEST, manifest)
        self.folder.rename(self.path)
        return TileStore(self.path)

    def discard(self) -> None:
        """Remove everything that was written, so that a failure leaves nothing half-written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_tables(self, records: Mapping[str, dict[str, Json]]) -> None:
        # One file for all slides: read through a single memory map, however many there are.
        (self.folder / "tiles").mkdir(exist_ok=True)
        total = sum(cast("int", record["n_tiles"]) for record in records.values())
        for name, path, descr, shape in (
            ("tissue", TILE_TISSUE, "<f4", (total,)),
            ("class_pixels", TILE_CLASSES, "<u4", (total, len(self._class_map))),
        ):
            with (self.folder / path).open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
                for slide_id in sorted(records):
                    with np.load(self.folder / "records" / f"{slide_id}.npz", allow_pickle=False) as part:
                        file.write(np.ascontiguousarray(part[name], dtype=descr).data)


@dataclass(frozen=True, slots=True)
class _InMemory:
    pixels: Pixels
    raster: Pixels

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def image(self, y: int, x: int, height: int, width: int) -> Pixels:
        return self.pixels[y : y + height, x : x + width]

    def labels(self, y: int, x: int, height: int, width: int) -> Pixels:
        return self.raster[y : y + height, x : x + width]

    def finish(self, tissue: Pixels) -> tuple[str, ...]:
        return ()
