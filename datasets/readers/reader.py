"""Common interface of all slide formats: pyramid levels, resolution, and access to any region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Level:
    """One pyramid level: its size in pixels, and the number of level-0 pixels per pixel along an edge."""

    height: int
    width: int
    downsample: float


class Bounds(NamedTuple):
    """Rectangle on level 0, in its pixels."""

    y: int
    x: int
    height: int
    width: int


class SlideReader(Protocol):
    """Open slide of some format. Regions are decoded on request; a whole slide is never kept in memory.

    Attributes:
        levels: the pyramid, finest first; ``levels[0].downsample`` is 1.
        mpp: micrometres per pixel of level 0 according to the file; None if it does not say.
        metadata: further information in the file (vendor, objective power, ...), as text.
        bounds: the scanned part of level 0, if the file says that it is less than all of it; None otherwise.
        notes: what was chosen or changed on the way to these pixels, one line each.
    """

    levels: tuple[Level, ...]
    mpp: float | None
    metadata: Mapping[str, str]
    bounds: Bounds | None
    notes: tuple[str, ...]

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Return a region in pixels of ``level``, (height, width, 3) uint8 RGB; white beyond the slide's edge.

        Raises:
            DataError: the region cannot be decoded; names the file.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...
