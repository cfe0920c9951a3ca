"""Sample tiles for the inspection page: what an annotator and a network see of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.store.shards import Pixels
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.store.tissue import MIN_TISSUE_SHARE
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, Tile

TILES_PER_CLASS = 6
_LABEL_WEIGHT = 0.4
_MAX_SLIDES = 200
"""Slides whose tables are searched; of more, as many are drawn at random."""


@dataclass(frozen=True, slots=True)
class SampleTile:
    """A tile on the page, with the file names of its picture and of the picture under its annotation, if it has one."""

    tile: Tile
    picture: str
    annotated: str | None


@dataclass(frozen=True, slots=True)
class ClassTiles:
    """Sample tiles that show a class; ``name`` is None for tissue that nobody annotated."""

    name: str | None
    tiles: tuple[SampleTile, ...]


def write_tiles(store: TileStore, folder: Path) -> tuple[ClassTiles, ...]:
    """Write pictures of sample tiles into ``folder`` and return them by class, see ``sample_tiles``."""
    return tuple(
        ClassTiles(name, tuple(_write(store, tile, folder, name is not None) for tile in tiles))
        for name, tiles in sample_tiles(store).items()
    )


def sample_tiles(store: TileStore) -> dict[str | None, list[Tile]]:
    """Return up to ``TILES_PER_CLASS`` sample tiles by class, one slide in turn after the other.

    Tiles of a class are drawn at random from those in which it covers the share that a tag needs. If no tile is
    annotated, they are drawn from all tissue and the class is None.
    """
    rng = np.random.default_rng(derive_seed("inspected tiles", store.content_hash))
    slides = sorted(rng.permutation(sorted(store.slides))[:_MAX_SLIDES].tolist())
    size = store.info.tile_px
    places = {slide_id: grid(store.slides[slide_id], size) for slide_id in slides}
    counts = {slide_id: store.withheld.tile_class_pixels(slide_id) for slide_id in slides}
    found: dict[str | None, list[Tile]] = {}
    for class_id, name in enumerate(store.class_map.names):
        showing = {}
        for slide_id, table in counts.items():
            least = np.maximum(1, store.info.min_tag_share * table.sum(axis=1))
            showing[slide_id] = np.flatnonzero(table[:, class_id] >= least)
        drawn = _in_turn(showing, rng)
        if drawn:
            found[name] = [places[slide_id][index] for slide_id, index in drawn]
    if not found:
        tissue = {slide_id: np.flatnonzero(store.tile_tissue(slide_id) >= MIN_TISSUE_SHARE) for slide_id in slides}
        found[None] = [places[slide_id][index] for slide_id, index in _in_turn(tissue, rng)]
    return found


def overlay(image: Pixels, labels: Pixels, class_map: ClassMap) -> Pixels:
    """Return the image (H, W, 3) uint8 under the colours of its labels (H, W) uint8; bare where there is none."""
    palette = np.full((IGNORE_LABEL + 1, 3), 255, np.float32)
    palette[: len(class_map)] = class_map.colors
    mixed = (1 - _LABEL_WEIGHT) * image + _LABEL_WEIGHT * palette[labels]
    return np.where((labels == IGNORE_LABEL)[..., None], image, mixed).astype(np.uint8)


def _in_turn(by_slide: Mapping[str, NDArray[np.int64]], rng: np.random.Generator) -> list[tuple[str, int]]:
    """Return up to ``TILES_PER_CLASS`` (slide, index), at random but from as many slides as possible."""
    orders = [(slide_id, rng.permutation(found).tolist()) for slide_id, found in by_slide.items() if len(found)]
    rng.shuffle(orders)
    longest = max((len(order) for _, order in orders), default=0)
    dealt = ((slide_id, order[turn]) for turn in range(longest) for slide_id, order in orders if turn < len(order))
    return [one for one, _ in zip(dealt, range(TILES_PER_CLASS), strict=False)]


def pixels_and_labels(store: TileStore, tile: Tile, size: int) -> tuple[Pixels, Pixels]:
    """Return a square region of ``size`` px and its annotation, (size, size, 3) and (size, size) uint8."""
    pixels: Pixels = np.ascontiguousarray(store.images([tile], size)[0].transpose(1, 2, 0))
    return pixels, store.withheld.masks([tile], size)[0]


def _write(store: TileStore, tile: Tile, folder: Path, annotated: bool) -> SampleTile:
    picture, labels = pixels_and_labels(store, tile, store.info.tile_px)
    name = f"{tile.slide_id}-{tile.y}-{tile.x}"
    Image.fromarray(picture).save(folder / f"{name}.jpg", quality=92)
    if not annotated:
        return SampleTile(tile, f"{name}.jpg", None)
    Image.fromarray(overlay(picture, labels, store.class_map)).save(folder / f"{name}-annotated.jpg", quality=92)
    return SampleTile(tile, f"{name}.jpg", f"{name}-annotated.jpg")
