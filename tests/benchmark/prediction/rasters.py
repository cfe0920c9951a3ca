"""Labels in memory, in place of those that a prediction keeps on disk, and random ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tissuebench.datasets.types import ClassMap

CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (200, 100, 150), (90, 20, 120)))


@dataclass
class Raster:
    """Labels in memory; no more than a block is ever asked for."""

    values: np.ndarray
    largest: int = 0

    @property
    def height(self):
        return self.values.shape[0]

    @property
    def width(self):
        return self.values.shape[1]

    def read(self, y, x, height, width):
        assert y + height <= self.height and x + width <= self.width
        self.largest = max(self.largest, height, width)
        return self.values[y : y + height, x : x + width]


@st.composite
def rasters(draw):
    """Random pixels or blobs, with nested rings, holes, islands and corners that touch."""
    height, width, coarse = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    some = draw(st.sampled_from([[0, 1], [0, 1, 2, 255], [1, 255], [2, 2, 2, 2, 255]]))
    small = rng.choice(np.array(some, np.uint8), size=(-(-height // coarse), -(-width // coarse)))
    raster = small.repeat(coarse, axis=0).repeat(coarse, axis=1)[:height, :width].copy()
    if draw(st.booleans()):
        for number in range(0, min(height, width) // 2, draw(st.integers(1, 3))):
            raster[number : height - number, number : width - number] = (0, 1, 255)[number % 3]
    if draw(st.booleans()):
        np.fill_diagonal(raster, 2)
    return raster
