"""Resampled view of a pyramid level: every region has the same pixels, however it is requested."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tissuebench.datasets.readers.reader import Pixels, SlideReader
from tissuebench.datasets.readers.regions import cells, inside, white

MAX_SOURCE_PX = 4096
"""Side of the largest piece of a level that is held in memory at once: 48 MiB as RGB."""
GRID_PX = 256


class LevelView:
    """View of a slide's level, resized to (height, width) by area averaging.

    The factor is the ratio of the two sizes. A factor that is an integer up to the rounding of the sides is treated as
    an integer: level 0 of 2221 px, at half size 1110 px or 1111 px, is averaged pixel by pixel, without a drift of one
    pixel over the slide; if the view needs more than the last row, that row is repeated. With integer factors a pixel
    depends only on its own source pixels. With other factors, the source pixels that Pillow averages depend on the
    region's corners, so the view is computed in cells of a fixed grid, and regions are cropped from them.
    """

    def __init__(self, reader: SlideReader, level: int, height: int, width: int) -> None:
        self._reader, self._level = reader, level
        self.height, self.width = height, width
        source = reader.levels[level]
        self._source_height, self._source_width = source.height, source.width
        self._factor_y, self._factor_x = _factor(source.height, height), _factor(source.width, width)
        self._whole = self._factor_y.is_integer() and self._factor_x.is_integer()
        largest = max(1, int(MAX_SOURCE_PX / max(self._factor_y, self._factor_x)))
        self._cell = largest if self._whole else min(largest, GRID_PX)

    def region(self, y: int, x: int, height: int, width: int) -> Pixels:
        """Return pixels of the view, (height, width, 3) uint8; white beyond its edge.

        Raises:
            DataError: the file cannot be decoded.
        """
        canvas = white(height, width)
        rows, columns = inside(y, height, self.height), inside(x, width, self.width)
        for cell_y, y0, y1 in cells(*rows, self._cell):
            for cell_x, x0, x1 in cells(*columns, self._cell):
                if self._whole:
                    part = self._render(y0, y1, x0, x1)
                else:
                    end_y, end_x = min(cell_y + self._cell, self.height), min(cell_x + self._cell, self.width)
                    cell = self._render(cell_y, end_y, cell_x, end_x)
                    part = cell[y0 - cell_y : y1 - cell_y, x0 - cell_x : x1 - cell_x]
                canvas[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return canvas

    def _render(self, y0: int, y1: int, x0: int, x1: int) -> Pixels:
        top, bottom, box_y0, box_y1 = _source(y0, y1, self._factor_y, self._source_height, self._whole)
        left, right, box_x0, box_x1 = _source(x0, x1, self._factor_x, self._source_width, self._whole)
        first_y, first_x = min(top, self._source_height - 1), min(left, self._source_width - 1)
        end_y, end_x = min(bottom, self._source_height), min(right, self._source_width)
        pixels = self._reader.read(self._level, first_y, first_x, max(end_y - first_y, 1), max(end_x - first_x, 1))
        if (bottom, right) != (end_y, end_x):  # repeat the last row or column
            rows = np.minimum(np.arange(top, bottom) - first_y, pixels.shape[0] - 1)
            columns = np.minimum(np.arange(left, right) - first_x, pixels.shape[1] - 1)
            pixels = pixels[rows[:, None], columns]
        if self._factor_y == self._factor_x == 1:
            return pixels
        image = Image.fromarray(pixels).resize(
            (x1 - x0, y1 - y0), Image.Resampling.BOX, box=(box_x0, box_y0, box_x1, box_y1), reducing_gap=None
        )
        return np.asarray(image)


def _factor(source_px: int, view_px: int) -> float:
    """Return source pixels per view pixel; an integer if that misses the source's size by at most one view pixel."""
    whole = max(1, round(source_px / view_px))
    return float(whole) if abs(whole * view_px - source_px) <= whole else source_px / view_px


def _source(start: int, end: int, factor: float, size: int, whole: bool) -> tuple[int, int, float, float]:
    """Return the source pixels that cover ``start .. end`` of the view, and its exact position within them.

    Only views with integer factors may extend beyond the source.
    """
    low, high = start * factor, end * factor
    first, last = int(low), -int(-high // 1)
    if not whole:
        first, last = min(first, size - 1), min(last, size)
    return first, last, low - first, min(high - first, last - first)
