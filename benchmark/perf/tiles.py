"""Benchmark of reading tiles, as ratios to other ways of storing a slide.

Tiles of 256 x 256 x 3 are read in random order, from a warm page cache, in one thread. The other ways are read at their
fastest reasonable: OpenSlide and PNG return (256, 256, 3) as they have it, while a store's tile comes as (3, 256, 256),
ready for a network; the memory-mapped array is copied into a batch by ``numpy.take``. The store is lossless and the
slide is JPEG: the speed costs disk space, which the table reports.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import tifffile
import zarr
from PIL import Image
from rich.console import Console

from tissuebench.datasets.store.pyramid import Codec
from tissuebench.datasets.types import Tile
from tissuebench.errors import ConfigError
from tissuebench.perf.ratios import Ratio, in_turn, ratio, show
from tissuebench.perf.slide_forms import CODECS, SLIDE_ID, TILE_PX, Forms, write_forms

Read = Callable[[Sequence[int]], object]

_N_TILES, _BATCH, _ROUNDS, _SEED = 512, 32, 9, 0
_NO_OPENSLIDE = "not measured: pip install 'tissuebench[openslide]'"


def run(console: Console, as_json: bool, size_px: int = 8192, seconds: float = 40.0) -> list[Ratio]:
    """Draw a slide, measure, and print one table.

    Args:
        console: console for the table; notes go to standard error.
        as_json: print JSON and nothing else.
        size_px: edge of the slide, a multiple of 256; 8192 temporarily takes 1 GB of disk.
        seconds: seconds of measuring, after about half a minute of drawing and writing.

    Raises:
        ConfigError: ``size_px`` is not a multiple of 256, or less than 512.
    """
    if size_px < 2 * TILE_PX or size_px % TILE_PX:
        raise ConfigError(f"perf-tiles: size_px is {size_px}; give a multiple of {TILE_PX} of at least {2 * TILE_PX}")
    notes = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as folder:
        notes.print(f"drawing a slide of {size_px} x {size_px} px and writing it in every form ...")
        forms = write_forms(Path(folder), size_px, _N_TILES, _SEED)
        notes.print(f"reading tiles for {seconds:g} s ...")
        lines = compare(forms, seconds)
    show("Tiles of 256 px: reads a second, relative", lines, console, as_json)
    return lines


def compare(forms: Forms, seconds: float) -> list[Ratio]:
    """Measure every way of reading ``forms`` in turn, and compare."""
    rates = in_turn(sources(forms), len(forms.tiles), _BATCH, seconds, _ROUNDS, _SEED)

    def line(name: str, of: str, to: str, goal: float | None = None) -> Ratio:
        missing = of not in rates or to not in rates
        return Ratio(name, None, goal, _NO_OPENSLIDE) if missing else ratio(name, rates[of], rates[to], goal)

    return [
        line("store (lz4) to OpenSlide on JPEG", "lz4", "openslide", 5),
        line("store (zstd) to OpenSlide on JPEG", "zstd", "openslide"),
        line("store (lz4) to PNG files with PIL", "lz4", "png", 8),
        line("store (none) to memory map, batches of 32", "none batch", "memmap", 0.6),
        line("labels (lz4) to memory map, batches of 32", "labels", "memmap labels", 0.5),
        line("store (lz4) to OpenSlide on JPEG, off the grid", "lz4 off grid", "openslide off grid", 2),
        line("store (lz4) to zarr-python on the same files", "lz4", "zarr-python"),
        line("store (lz4) to tifffile on JPEG", "lz4", "tiff"),
        line("store (zstd) to store (lz4)", "zstd", "lz4"),
        line("store (none) to store (lz4)", "none", "lz4"),
        *(_bytes(forms, codec) for codec in CODECS),
        Ratio("bytes of the JPEG slide to raw", forms.jpeg_slide.stat().st_size / _raw_bytes(forms), note="all levels"),
    ]


def sources(forms: Forms) -> dict[str, Read]:
    """Return every way to read, by name; each takes the numbers of the tiles. OpenSlide's are missing without it."""
    tiles, off_grid = forms.tiles, _off_grid(forms)
    # Plain arrays over the mapped memory: the subclass numpy.memmap costs time at every index.
    images, labels = np.asarray(forms.images), np.asarray(forms.labels)
    lz4, none = forms.stores["lz4"], forms.stores["none"]
    array = zarr.open_array(lz4.path / "slides" / SLIDE_ID / "0", mode="r")

    def single(codec: Codec, chosen: Sequence[Tile]) -> Read:
        store = forms.stores[codec]
        return lambda rows: [store.image(SLIDE_ID, chosen[i].y, chosen[i].x, TILE_PX, TILE_PX) for i in rows]

    def from_zarr(rows: Sequence[int]) -> object:
        return [array[:, tile.y : tile.y + TILE_PX, tile.x : tile.x + TILE_PX] for tile in (tiles[i] for i in rows)]

    ways: dict[str, Read] = {
        **{codec: single(codec, tiles) for codec in CODECS},
        "lz4 off grid": single("lz4", off_grid),
        "none batch": lambda rows: none.images([tiles[i] for i in rows], TILE_PX),
        "memmap": lambda rows: np.take(images, list(rows), axis=0),
        "labels": lambda rows: lz4.withheld.masks([tiles[i] for i in rows], TILE_PX),
        "memmap labels": lambda rows: np.take(labels, list(rows), axis=0),
        "png": lambda rows: [np.asarray(Image.open(forms.png[i])) for i in rows],
        "zarr-python": from_zarr,
        "tiff": _tifffile(forms),
    }
    library = _openslide()
    if library is not None:
        slide = library.OpenSlide(forms.jpeg_slide)

        def from_openslide(chosen: Sequence[Tile]) -> Read:
            size = (TILE_PX, TILE_PX)
            return lambda rows: [
                np.asarray(slide.read_region((chosen[i].x, chosen[i].y), 0, size))[..., :3] for i in rows
            ]

        ways |= {"openslide": from_openslide(tiles), "openslide off grid": from_openslide(off_grid)}
    return ways


def _tifffile(forms: Forms) -> Read:
    """Return a reader that decodes tile by tile without a cache: the decoder's own speed."""
    page = tifffile.TiffFile(forms.jpeg_slide).pages.first
    file, decode, per_row = page.parent.filehandle, page.decode, forms.size_px // TILE_PX

    def read(index: int) -> object:
        file.seek(page.dataoffsets[index])
        return decode(file.read(page.databytecounts[index]), index, jpegtables=page.jpegtables)[0]

    numbers = [tile.y // TILE_PX * per_row + tile.x // TILE_PX for tile in forms.tiles]
    return lambda rows: [read(numbers[i]) for i in rows]


def _off_grid(forms: Forms) -> list[Tile]:
    """Return as many other tiles, none of which lies on the grid: each touches four chunks."""
    rng = np.random.default_rng(_SEED + 1)
    cells = rng.integers(forms.size_px // TILE_PX - 1, size=(len(forms.tiles), 2)) * TILE_PX
    shifts = rng.integers(1, TILE_PX, size=cells.shape)
    return [Tile(SLIDE_ID, y, x) for y, x in (cells + shifts).tolist()]


def _raw_bytes(forms: Forms) -> int:
    return 3 * forms.size_px**2


def _bytes(forms: Forms, codec: Codec) -> Ratio:
    return Ratio(f"bytes of the store ({codec}) to raw", forms.level0_bytes(codec) / _raw_bytes(forms), note="level 0")


def _openslide() -> ModuleType | None:
    try:
        return importlib.import_module("openslide")
    except (ImportError, OSError):  # the package is missing, or the library that it loads
        return None
