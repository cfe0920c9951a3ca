"""Tissue of a slide that is predicted: the mask that its store would have, and labels without what lies on glass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
class OnTissue:
    """Labels of a slide, ``IGNORE_LABEL`` off its tissue."""

    labels: Labels
    tissue: Mask

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
        there = tissue_pixels(self.tissue, y, x, height, width)
        return np.where(there, self.labels.read(y, x, height, width), np.uint8(IGNORE_LABEL))
