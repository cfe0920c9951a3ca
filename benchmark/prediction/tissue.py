"""Tissue of a slide that is predicted: the mask that its store would have, and the labels that lie on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.readers import Slide
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.store.tile_store import TISSUE_DOWNSAMPLE
from tissuebench.datasets.store.tissue import shrink, tissue_mask, tissue_pixels
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.prediction.label_blocks import Labels

Mask = NDArray[np.uint8]
ReadPixels = Callable[[int, int, int, int], NDArray[np.uint8]]
"""Callable that maps (y, x, height, width) to the region (height, width, 3) uint8 RGB."""


def tissue_of(read: ReadPixels, height: int, width: int) -> Mask:
    """Return the tissue mask that an ingest of the slide would store, (ceil(H/16), ceil(W/16)) uint8 of 0 and 1.

    Args:
        read: reads the slide at the resolution and in the stain of the training.
        height: height of the slide in pixels.
        width: width of the slide in pixels.
    """
    edge = TISSUE_DOWNSAMPLE
    small = np.empty((-(-height // edge), -(-width // edge), 3), np.uint8)
    for y, x, rows, columns in blocks(height, width):
        part = shrink(read(y, x, rows, columns))
        small[y // edge : y // edge + part.shape[0], x // edge : x // edge + part.shape[1]] = part
    return tissue_mask(small)


@dataclass(frozen=True, slots=True)
class Ground:
    """Parts of a slide: its tissue, the glass around it, and what was never scanned and is neither.

    Attributes:
        tissue: mask at 1/16.
        rows: first row of the scanned part, and the one after its last; in pixels of the labels.
        columns: the same of its columns.
    """

    tissue: Mask
    rows: tuple[int, int]
    columns: tuple[int, int]

    @classmethod
    def of(cls, slide: Slide, tissue: Mask) -> Ground:
        """Return the parts of a slide; a pixel is scanned if its centre lies within the bounds of the slide, if any."""
        if slide.bounds is None:
            return cls(tissue, (0, slide.height), (0, slide.width))
        y, x, height, width = slide.bounds
        first, last = (math.ceil(at / slide.scale - 0.5) for at in (y, y + height))
        left, right = (math.ceil(at / slide.scale - 0.5) for at in (x, x + width))
        return cls(tissue, (first, last), (left, right))

    def parts(self, y: int, x: int, height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which pixels of a region are tissue, and which are glass, both (height, width)."""
        rows, columns = np.arange(y, y + height)[:, None], np.arange(x, x + width)
        scanned = (rows >= self.rows[0]) & (rows < self.rows[1])
        scanned = scanned & (columns >= self.columns[0]) & (columns < self.columns[1])
        tissue = tissue_pixels(self.tissue, y, x, height, width)
        return scanned & tissue, scanned & ~tissue


@dataclass(frozen=True, slots=True)
class Shown:
    """Labels of a slide on its tissue, with ``glass`` also on that, and ``IGNORE_LABEL`` elsewhere."""

    labels: Labels
    ground: Ground
    glass: bool

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.labels.height

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.labels.width

    def read(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a block (height, width) uint8 within the slide."""
        tissue, glass = self.ground.parts(y, x, height, width)
        wanted = tissue | glass if self.glass else tissue
        return np.where(wanted, self.labels.read(y, x, height, width), np.uint8(IGNORE_LABEL))
