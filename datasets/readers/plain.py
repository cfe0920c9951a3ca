"""Reader of PNG, JPEG, BMP and WebP images as slides with one level and without a resolution."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tissuebench.datasets.readers.failures import reading
from tissuebench.datasets.readers.reader import Bounds, Level, Pixels
from tissuebench.datasets.readers.regions import inside, on_background, white
from tissuebench.datasets.readers.upright import ORIENTATIONS, turned_note
from tissuebench.errors import DataError

PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # by content; other formats may run programs or read more files
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112  # EXIF
_PNG_START, _PNG_DEPTH_AT = b"\x89PNG", 24


class ArrayReader:
    """Picture in memory, (H, W, 3) uint8 RGB, with one level and without a resolution; implements ``SlideReader``."""

    def __init__(self, pixels: Pixels, notes: tuple[str, ...] = ()) -> None:
        self._pixels = pixels
        height, width = pixels.shape[:2]
        self.levels: tuple[Level, ...] = (Level(height, width, 1.0),)
        self.mpp: float | None = None
        self.metadata: Mapping[str, str] = {}
        self.bounds: Bounds | None = None
        self.notes = notes

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region; see ``SlideReader.read``."""
        size, canvas = self.levels[level], white(height, width)
        y0, y1 = inside(y, height, size.height)
        x0, x1 = inside(x, width, size.width)
        canvas[y0 - y : y1 - y, x0 - x : x1 - x] = self._pixels[y0:y1, x0:x1]
        return canvas

    def close(self) -> None:
        """Release the pixels."""
        self._pixels = white(0, 0)


class PlainReader(ArrayReader):
    """Image that is decoded once when it is opened, turned as its EXIF orientation says.

    Raises:
        DataError: unreadable, more than 8 bits per channel, grey, several frames, or more pixels than Pillow decodes.
    """

    def __init__(self, path: Path) -> None:
        try:
            with reading(path, "an image", SyntaxError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the bomb warning is issued at half the refused size
                with Image.open(path, formats=_FORMATS) as image:
                    _require_colour_picture(path, image)
                    orientation = image.getexif().get(_ORIENTATION, 1)
                    pixels = _rgb(ImageOps.exif_transpose(image))
        except Image.DecompressionBombError:
            raise DataError(f"{path}: too many pixels for a plain image; convert it to a tiled TIFF") from None
        super().__init__(pixels, (turned_note(orientation),) if orientation in ORIENTATIONS else ())


def _require_colour_picture(path: Path, image: Image.Image) -> None:
    if image.mode in _DEEP_MODES or (image.format == "PNG" and _png_depth(path) > 8):
        # Pillow keeps the upper 8 bits of 16: those of a 12-bit camera are almost black.
        raise DataError(f"{path}: more than 8 bits a channel (mode {image.mode}); convert it to 8-bit RGB")
    if image.mode in _GREY_MODES:
        raise DataError(f"{path}: not 8-bit RGB (grey, mode {image.mode}); save it in colour or leave it out")
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", 2)
        raise DataError(f"{path}: {frames} frames, a slide has one; save the one that is meant")


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        start = file.read(_PNG_DEPTH_AT + 1)
    return start[_PNG_DEPTH_AT] if start.startswith(_PNG_START) and len(start) > _PNG_DEPTH_AT else 8


def _rgb(image: Image.Image) -> Pixels:
    if image.has_transparency_data:
        return on_background(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))
