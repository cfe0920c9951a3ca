"""What every slide format offers: levels of a pyramid, its resolution, and any region of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid: its size in pixels, and how many pixels of level 0 one of its pixels spans."""

    height: int
    width: int
    downsample: float


class SlideReader(Protocol):
    """An open slide of some format. Regions are decoded when they are asked for; nothing is kept of a whole slide.

    Attributes:
        levels: the pyramid, finest first; ``levels[0].downsample`` is 1.
        mpp: micrometres a pixel of level 0 as the file says it; None where it does not.
        metadata: what else the file says of itself (vendor, objective power, ...), as text.
    """

    levels: tuple[Level, ...]
    mpp: float | None
    metadata: Mapping[str, str]

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """A region in pixels of ``level``, (height, width, 3) uint8 RGB; white beyond the slide's edge.

        Raises:
            DataError: the region cannot be decoded; names the file.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...
