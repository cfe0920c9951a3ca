"""Slide of drawn tissue in every format that the tile benchmark compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tissuebench.datasets.catalog.synthetic import CLASS_MAP
from tissuebench.datasets.store.pyramid import Codec
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import TISSUE_DOWNSAMPLE, StoreInfo, TileStore
from tissuebench.datasets.synthetic import SyntheticConfig, cohort, render_slide
from tissuebench.datasets.synthetic.slides import write_pyramid
from tissuebench.datasets.types import LabelCosts, Tile

TILE_PX = 256
CODECS: tuple[Codec, ...] = ("lz4", "zstd", "none")
SLIDE_ID = "slide"
_MPP = 0.5
_PIECE_PX, _N_PIECES = 2048, 4

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Forms:
    """The same pixels as a JPEG slide and, decoded from it, as stores, PNG files and memory-mapped arrays.

    Attributes:
        stores: one per codec; tiles lie on their chunks.
        jpeg_slide: pyramidal TIFF of 256 px tiles, JPEG quality 90.
        png: one file per tile.
        images: (N, 3, 256, 256) uint8, memory-mapped, tile after tile.
        labels: (N, 256, 256) uint8, memory-mapped, tile after tile.
        tiles: the N tiles, in random order; row i of the arrays is tile i.
    """

    stores: dict[Codec, TileStore]
    jpeg_slide: Path
    png: tuple[Path, ...]
    images: Pixels
    labels: Pixels
    tiles: tuple[Tile, ...]

    @property
    def size_px(self) -> int:
        """Edge of the square slide."""
        return self.stores["none"].slides[SLIDE_ID].height

    def level0_bytes(self, codec: Codec) -> int:
        """Return the bytes on disk of the slide's full resolution."""
        level0 = self.stores[codec].path / "slides" / SLIDE_ID / "0"
        return sum(path.stat().st_size for path in level0.rglob("*") if path.is_file())


def draw(size_px: int, seed: int) -> tuple[Pixels, Pixels]:
    """Draw a mosaic of synthetic slides, each in several orientations: (S, S, 3) and class ids, (S, S), uint8."""
    edge = min(_PIECE_PX, size_px)
    config = SyntheticConfig(n_train=_N_PIECES, n_val=0, n_test=0, size_px=edge, mpp=_MPP, seed=seed)
    pieces = [render_slide(config, patient) for patient in cohort(config)]
    image, labels = np.empty((size_px, size_px, 3), np.uint8), np.empty((size_px, size_px), np.uint8)
    for number, (y, x) in enumerate((y, x) for y in range(0, size_px, edge) for x in range(0, size_px, edge)):
        piece, turn = pieces[number % _N_PIECES], number // _N_PIECES
        height, width = min(edge, size_px - y), min(edge, size_px - x)
        image[y : y + height, x : x + width] = np.rot90(piece.image, turn)[:height, :width]
        labels[y : y + height, x : x + width] = np.rot90(piece.labels, turn)[:height, :width]
    return image, labels


def write_forms(folder: Path, size_px: int, n_tiles: int, seed: int) -> Forms:
    """Draw a slide and write it into ``folder`` in all formats.

    Args:
        folder: a new folder.
        size_px: edge of the slide, a multiple of 256.
        n_tiles: tiles to read, drawn without replacement; at most as many as there are.
        seed: seed of slide and tiles.
    """
    drawn, labels = draw(size_px, seed)
    write_pyramid(folder / "slide.tif", drawn, _MPP)
    image: Pixels = tifffile.imread(folder / "slide.tif", level=0)  # pixels after a scanner's JPEG, as in a real store
    origins = [(y, x) for y in range(0, size_px, TILE_PX) for x in range(0, size_px, TILE_PX)]
    order = np.random.default_rng(seed).permutation(len(origins))[:n_tiles]
    tiles = tuple(Tile(SLIDE_ID, *origins[index]) for index in order)
    stores = {codec: _write_store(folder / f"{codec}.zarr", codec, image, labels) for codec in CODECS}
    mapped_images = _mapped(folder / "images.npy", (len(tiles), 3, TILE_PX, TILE_PX))
    mapped_labels = _mapped(folder / "labels.npy", (len(tiles), TILE_PX, TILE_PX))
    (folder / "png").mkdir()
    png = []
    for row, tile in enumerate(tiles):
        pixels = image[tile.y : tile.y + TILE_PX, tile.x : tile.x + TILE_PX]
        mapped_images[row] = pixels.transpose(2, 0, 1)
        mapped_labels[row] = labels[tile.y : tile.y + TILE_PX, tile.x : tile.x + TILE_PX]
        png.append(folder / "png" / f"{row:05}.png")
        Image.fromarray(pixels).save(png[-1])
    return Forms(stores, folder / "slide.tif", tuple(png), mapped_images, mapped_labels, tiles)


def _write_store(path: Path, codec: Codec, image: Pixels, labels: Pixels) -> TileStore:
    writer = StoreWriter(path, StoreInfo("perf", _MPP, TILE_PX, LabelCosts()), CLASS_MAP, codec)
    tissue = (labels[::TISSUE_DOWNSAMPLE, ::TISSUE_DOWNSAMPLE] != CLASS_MAP.names.index("glass")).astype(np.uint8)
    writer.add(SLIDE_ID, "patient", (), image, labels, tissue)
    return writer.seal()


def _mapped(path: Path, shape: tuple[int, ...]) -> Pixels:
    array: Pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    return array
