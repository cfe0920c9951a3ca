"""Labels in memory, in place of those that a prediction keeps on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
