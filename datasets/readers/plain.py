"""Reader of PNG, JPEG, BMP and WebP images as slides with one level and without a resolution."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tissuebench.datasets.readers.failures import reading
from tissuebench.datasets.readers.reader import Bounds, Level, Pixels
from tissuebench.datasets.readers.regions import inside, on_background, white
from tissuebench.errors import DataError

PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # by content; other formats may run programs or read more files
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class PlainReader:
    """Image that is decoded once when it is opened; implements ``SlideReader``.

    Raises:
        DataError: unreadable, more than 8 bits per channel, or more pixels than Pillow decodes.
    """

    def __init__(self, path: Path) -> None:
        try:
            with reading(path, "an image", SyntaxError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the bomb warning is issued at half the refused size
                with Image.open(path, formats=_FORMATS) as image:
                    if image.mode in _DEEP_MODES:
                        raise DataError(
                            f"{path}: more than 8 bits a channel (mode {image.mode}); convert it to 8-bit RGB"
                        )
                    if image.has_transparency_data:
                        self._pixels = on_background(np.asarray(image.convert("RGBA")))
                    else:
                        self._pixels = np.asarray(image.convert("RGB"))
        except Image.DecompressionBombError:
            raise DataError(f"{path}: too many pixels for a plain image; convert it to a tiled TIFF") from None
        height, width = self._pixels.shape[:2]
        self.levels: tuple[Level, ...] = (Level(height, width, 1.0),)
        self.mpp: float | None = None
        self.metadata: Mapping[str, str] = {}
        self.bounds: Bounds | None = None
        self.notes: tuple[str, ...] = ()

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
