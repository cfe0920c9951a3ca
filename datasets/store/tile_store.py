"""TileStore: slides and label rasters as OME-Zarr 0.5, sealed with a content hash and immutable from then on.

Layout (zarr v3, sharded)::

    store.zarr/manifest.json                      written last: it seals the store
    store.zarr/slides/<slide_id>/0..n             image pyramid, (3, Y, X) uint8
    store.zarr/slides/<slide_id>/labels/annotation/0..n   class ids, (Y, X) uint8, 255 = not annotated
    store.zarr/slides/<slide_id>/labels/tissue/0..n       1 = tissue, (Y, X) uint8, from 1/16 on
    store.zarr/tiles/                             tissue share and pixels per class of every tile of every slide
    store.zarr/source.json                        hash of the source files; not part of the content hash
    store.zarr/records/<slide_id>.json            origin of the slide, and what was repaired
    store.zarr/thumbnails/<slide_id>.jpg          tissue and annotation drawn over the slide, for visual checks

Source of the format: OME-NGFF 0.5, sections ``multiscales`` and ``image-label``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import Json
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.documents import read_hashed_json
from tissuebench.datasets.store.shards import Pixels, ShardCache, read_into
from tissuebench.datasets.types import ClassMap, LabelCosts, StainNormalisation, Tile
from tissuebench.datasets.weak_labels import MIN_SHARE
from tissuebench.errors import DataError

FORMAT_VERSION = 2
TISSUE_DOWNSAMPLE = 16
MANIFEST, SOURCE = "manifest.json", "source.json"
TILE_TISSUE, TILE_CLASSES = "tiles/tissue.npy", "tiles/class_pixels.npy"


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Label-free properties of a slide. ``height`` and ``width`` are in pixels at the store's mpp."""

    slide_id: str
    patient_id: str
    height: int
    width: int
    tissue_fraction: float


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Properties of a store as a whole.

    Attributes:
        dataset: name of the dataset.
        mpp: micrometres per pixel; None if the source does not publish it.
        tile_px: edge length of a tile.
        costs: assumed costs of labels.
        source_sha256: hash of the manifest and files that the store was made from; a new one means that something may
            have changed.
        min_tag_share: minimum share of a tile's annotated pixels for a tag to name a class.
        white: rule for pixels that are background by their colour.
        stain: method by which the slides were brought to one stain.
    """

    dataset: str
    mpp: float | None
    tile_px: int
    costs: LabelCosts
    source_sha256: str = ""
    min_tag_share: float = MIN_SHARE
    white: WhiteBackground | None = None
    stain: StainNormalisation = "none"


class WithheldLabels:
    """All labels of a store. Only the label view, the budgets and the splits may hold one (enforced by a test)."""

    def __init__(self, store: TileStore, records: dict[str, dict[str, Json]]) -> None:
        self._store = store
        self._records = records

    def mask(self, slide_id: str, y: int, x: int, height: int, width: int) -> Pixels:
        """Return the class ids of a region, (height, width) uint8."""
        return self._store._region(slide_id, "labels/annotation/0", (height, width), y, x)

    def masks(self, tiles: Sequence[Tile], size: int) -> Pixels:
        """Return the class ids of several tiles, (B, size, size) uint8."""
        return self._store._batch(tiles, "labels/annotation/0", (size, size))

    def diagnosis(self, slide_id: str) -> tuple[str, ...]:
        """Return the diagnoses of a slide's case; several if mixed, none if unknown."""
        return tuple(cast("list[str]", self._records[slide_id]["diagnosis"]))

    def tags(self, slide_id: str) -> tuple[str, ...] | None:
        """Return the classes present in the slide, if its source states them as a separate label; None otherwise."""
        tags = cast("list[str] | None", self._records[slide_id]["tags"])
        return None if tags is None else tuple(tags)

    def class_pixels(self, slide_id: str) -> tuple[int, ...]:
        """Return the number of annotated pixels of each class."""
        return tuple(cast("list[int]", self._records[slide_id]["class_pixels"]))

    def tile_class_pixels(self, slide_id: str) -> NDArray[np.uint32]:
        """Return the annotated pixels of each class in each tile of ``tiling.grid``, (N, K) uint32, in its order."""
        return self._all_tile_class_pixels[self._store._tile_rows[slide_id]]

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_all_tile_class_pixels"}

    @cached_property
    def _all_tile_class_pixels(self) -> NDArray[np.uint32]:
        return cast("NDArray[np.uint32]", _load_table(self._store.path / TILE_CLASSES))


class TileStore:
    """Sealed store, opened for reading. It may be pickled and forked: every process maps the files by itself.

    Raises:
        DataError: there is no store, it was never sealed, or its manifest was edited.

    Examples:
        >>> store = TileStore(Path("data/synthetic/store.zarr"))
        >>> slide = next(iter(store.slides.values()))
        >>> store.image(slide.slide_id, y=0, x=0, height=256, width=256).shape
        (3, 256, 256)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise DataError(f"{path}: no such store; run 'tissuebench data ingest'")
        if not (path / MANIFEST).is_file():
            raise DataError(f"{path}: this store was never sealed; delete it and run 'tissuebench data ingest' again")
        manifest, self.content_hash = read_hashed_json(path / MANIFEST)
        if manifest.get("format") != FORMAT_VERSION:
            raise DataError(
                f"{path}: store format {manifest.get('format')!r}, this version reads {FORMAT_VERSION}; delete it and "
                "run the command again"
            )
        document = cast("dict[str, Any]", manifest)
        self.info = StoreInfo(
            dataset=document["dataset"],
            mpp=document["mpp"],
            tile_px=document["tile_px"],
            costs=LabelCosts(**document["costs"]),
            source_sha256=str(read_hashed_json(path / SOURCE)[0]["sha256"]),
            min_tag_share=document.get("min_tag_share", MIN_SHARE),
            white=WhiteBackground(**document["white"]) if "white" in document else None,
            stain=document.get("stain", "none"),
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
        ends = list(accumulate(record["n_tiles"] for record in records.values()))
        self._tile_rows = {
            slide_id: slice(end - record["n_tiles"], end)
            for (slide_id, record), end in zip(records.items(), ends, strict=True)
        }
        self.withheld = WithheldLabels(self, records)
        self._shards = ShardCache()

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_all_tile_tissue"}

    def frugal(self, max_open: int = 5) -> TileStore:
        """Return the same store for reading slides in order: it keeps few shards mapped, as they count as memory."""
        twin = copy.copy(self)
        twin._shards = ShardCache(max_open)
        return twin

    def image(self, slide_id: str, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region of the image, (3, height, width) uint8 RGB; white beyond the slide's edge."""
        return self._region(slide_id, "0", (3, height, width), y, x)

    def images(self, tiles: Sequence[Tile], size: int) -> Pixels:
        """Return the images of several tiles, (B, 3, size, size) uint8 RGB; white beyond the slides' edges."""
        return self._batch(tiles, "0", (3, size, size))

    def tissue(self, slide_id: str) -> Pixels:
        """Return the tissue mask at 1/16, (ceil(H/16), ceil(W/16)) uint8 of 0 and 1."""
        slide = self._slide(slide_id)
        size = (-(-slide.height // TISSUE_DOWNSAMPLE), -(-slide.width // TISSUE_DOWNSAMPLE))
        return self._region(slide_id, "labels/tissue/0", size, 0, 0)

    def tile_tissue(self, slide_id: str) -> NDArray[np.float32]:
        """Return the share of tissue in each tile of ``tiling.grid``, (N,) float32 in 0..1, in its order."""
        return self._all_tile_tissue[self._tile_rows[slide_id]]

    @cached_property
    def _all_tile_tissue(self) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", _load_table(self.path / TILE_TISSUE))

    def _region(self, slide_id: str, name: str, shape: tuple[int, ...], y: int, x: int) -> Pixels:
        self._slide(slide_id)
        out: Pixels = np.empty(shape, np.uint8)
        read_into(out, self._shards, f"{self.path}/slides/{slide_id}/{name}", y, x)
        return out

    def _batch(self, tiles: Sequence[Tile], name: str, shape: tuple[int, ...]) -> Pixels:
        out: Pixels = np.empty((len(tiles), *shape), np.uint8)
        folder = f"{self.path}/slides/"
        for target, tile in zip(out, tiles, strict=True):
            self._slide(tile.slide_id)
            read_into(target, self._shards, f"{folder}{tile.slide_id}/{name}", tile.y, tile.x)
        return out

    def _slide(self, slide_id: str) -> SlideInfo:
        try:
            return self.slides[slide_id]
        except KeyError:
            raise DataError(f"{self.path}: no slide {slide_id!r}") from None


def _load_table(path: Path) -> NDArray[Any]:
    try:
        table: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); ingest again") from None
    return table
