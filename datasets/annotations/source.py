"""Common interface of all annotations: labels for any block of a slide's raster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.readers import Bounds
from tissuebench.datasets.types import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class Frame:
    """Position of the raster on the slide.

    Attributes:
        level0_size: (height, width) of level 0 in pixels.
        size: (height, width) of the raster, at the store's resolution.
        scale: level-0 pixels per raster pixel; the centre of raster pixel (y, x) is (y + 0.5, x + 0.5) * scale.
        bounds: the scanned part of level 0, to which some programs crop the slide; None if it is all of it.
    """

    level0_size: tuple[int, int]
    size: tuple[int, int]
    scale: float
    bounds: Bounds | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Part of a requested block that lies inside the frame, in raster pixels, and its position within the block."""

    y0: int
    x0: int
    y1: int
    x1: int
    within: tuple[slice, slice]

    @property
    def empty(self) -> bool:
        """Whether the block lies entirely outside the frame."""
        return self.y0 >= self.y1 or self.x0 >= self.x1


class LabelSource(Protocol):
    """Labels of one slide.

    Attributes:
        notes: what was repaired, clipped or left out, one line each.
        offset: (y, x) of the origin of the annotation's coordinates, in pixels of level 0; (0, 0) unless they are those
            of the scanned part.
    """

    notes: tuple[str, ...]
    offset: tuple[int, int]

    def raster(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the class ids of a block in raster pixels.

        Returns:
            (height, width) uint8; ``IGNORE_LABEL`` where nothing is annotated and beyond the edge.

        Raises:
            DataError: the labels of this block cannot be used; names the file.
        """
        ...

    def finish(self) -> tuple[str, ...]:
        """Return ``notes`` and what only the whole raster shows, after its last block.

        Raises:
            DataError: what was read cannot be meant as labels; names the file and the key that settles it.
        """
        ...


def blank(height: int, width: int) -> NDArray[np.uint8]:
    """Return a block (height, width) uint8 of ``IGNORE_LABEL``."""
    return np.full((height, width), IGNORE_LABEL, dtype=np.uint8)


def block_inside(frame: Frame, y: int, x: int, height: int, width: int) -> Block:
    """Return the part of a block that lies inside the frame."""
    y0, x0 = max(y, 0), max(x, 0)
    y1, x1 = min(y + height, frame.size[0]), min(x + width, frame.size[1])
    return Block(y0, x0, y1, x1, (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)))
