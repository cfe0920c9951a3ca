"""Reader of scanner formats through the OpenSlide library, an optional extra."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from tissuebench.datasets.readers.dicom import dicom_slide
from tissuebench.datasets.readers.failures import reading, reason
from tissuebench.datasets.readers.reader import Bounds, Level, Pixels
from tissuebench.datasets.readers.regions import cells, inside, on_background, white
from tissuebench.datasets.readers.resolution import square_mpp
from tissuebench.errors import DataError

OPENSLIDE_SUFFIXES = (".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm")
_CELL_PX = 512
_KIND = "a slide of OpenSlide's formats"


class OpenSlideReader:
    """Slide opened with OpenSlide; implements ``SlideReader``.

    Pixels that were never scanned are transparent and get the slide's background colour. Coordinates are those of the
    whole level 0; ``bounds`` is the scanned part of it (``openslide.bounds-*``), to which QuPath crops a slide.

    Args:
        path: the file; a DICOM slide may also be named by its folder, its label or its overview.

    Raises:
        DataError: the package is not installed, the file is unreadable, or pixels are not square.
    """

    def __init__(self, path: Path) -> None:
        with reading(path, _KIND):
            path, notes = dicom_slide(path)
        library = _library(path)
        self._path, self._errors = path, (library.OpenSlideError,)
        with reading(path, _KIND, *self._errors):
            self._slide = library.OpenSlide(path)
        try:
            with reading(path, _KIND, *self._errors):
                said = dict(self._slide.properties)
                self.levels: tuple[Level, ...] = tuple(
                    Level(height, width, downsample)
                    for (width, height), downsample in zip(
                        self._slide.level_dimensions, self._slide.level_downsamples, strict=True
                    )
                )
                sides = [said.get(name) for name in ("openslide.mpp-x", "openslide.mpp-y")]
                self.mpp = square_mpp(path, *(float(side) if side else None for side in sides))
                colour = said.get("openslide.background-color", "FFFFFF")
                self._background = (int(colour[0:2], 16), int(colour[2:4], 16), int(colour[4:6], 16))
        except BaseException:
            self._slide.close()
            raise
        self.bounds, more = scanned_part(said, self.levels[0])
        self.notes: tuple[str, ...] = (*notes, *more)
        names = {"vendor": "openslide.vendor", "objective_power": "openslide.objective-power"}
        self.metadata: Mapping[str, str] = {name: said[key] for name, key in names.items() if key in said}

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region; see ``SlideReader.read``."""
        size, canvas = self.levels[level], white(height, width)
        y0, y1 = inside(y, height, size.height)
        x0, x1 = inside(x, width, size.width)
        if y1 > y0 and x1 > x0 and size.downsample.is_integer():
            canvas[y0 - y : y1 - y, x0 - x : x1 - x] = self._pixels(level, y0, x0, y1, x1)
            return canvas
        # OpenSlide takes corners in whole level-0 pixels and interpolates the remainder: with cells on a fixed grid a
        # pixel is the same whatever region is requested.
        for top, low_y, high_y in cells(y0, y1, _CELL_PX):
            for left, low_x, high_x in cells(x0, x1, _CELL_PX):
                end_y, end_x = min(top + _CELL_PX, size.height), min(left + _CELL_PX, size.width)
                pixels = self._pixels(level, top, left, end_y, end_x)
                part = pixels[low_y - top : high_y - top, low_x - left : high_x - left]
                canvas[low_y - y : high_y - y, low_x - x : high_x - x] = part
        return canvas

    def _pixels(self, level: int, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        downsample = self.levels[level].downsample
        corner = (round(x0 * downsample), round(y0 * downsample))
        with reading(self._path, _KIND, *self._errors):
            rgba = np.asarray(self._slide.read_region(corner, level, (x1 - x0, y1 - y0)))
        return on_background(rgba, self._background)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def scanned_part(properties: Mapping[str, str], level0: Level) -> tuple[Bounds | None, tuple[str, ...]]:
    """Return the bounds that OpenSlide's properties give, and a note if they cannot be what they say.

    A rectangle that extends beyond level 0 is clipped: QuPath counts from its corner all the same.

    Returns:
        None without bounds, with bounds of all of level 0, and with bounds that are no rectangle on it.
    """
    names = [f"openslide.bounds-{side}" for side in ("y", "x", "height", "width")]
    texts = [properties.get(name) for name in names]
    if all(text is None for text in texts):
        return None, ()
    said = ", ".join(f"{name.rpartition('-')[2]} {text}" for name, text in zip(names, texts, strict=True))
    try:
        y, x, height, width = (int(text or "") for text in texts)
    except ValueError:
        y = x = height = width = -1
    if not (0 <= y < level0.height and 0 <= x < level0.width and height > 0 and width > 0):
        return None, (f"the file's bounds of the scanned part are no part of the slide ({said}): ignored",)
    found = Bounds(y, x, min(height, level0.height - y), min(width, level0.width - x))
    clipped = (f"the file's bounds of the scanned part extend beyond the slide ({said}): clipped",)
    notes = clipped if (found.height, found.width) != (height, width) else ()
    return (None if found == (0, 0, level0.height, level0.width) else found), notes


def _library(path: Path) -> ModuleType:
    try:
        return importlib.import_module("openslide")
    except (ImportError, OSError) as error:  # the package, or its shared library
        raise DataError(
            f"{path}: this format needs OpenSlide ({reason(error)}); pip install 'tissuebench[openslide]'"
        ) from None
