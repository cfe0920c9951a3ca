"""Interface for reading the labels of a predicted slide, block by block."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_PX = 2048
"""Edge of the blocks that are processed at once."""


class Labels(Protocol):
    """Class ids of a slide; ``height`` and ``width`` in pixels."""

    @property
    def height(self) -> int: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    def read(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a block (height, width) uint8 within the slide, ``IGNORE_LABEL`` where nothing was predicted."""
        ...
