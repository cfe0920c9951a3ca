"""What a format's reader hands back before the target resolution is applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ChooseLevel = Callable[[float | None, list[float]], int]
"""From the level-0 mpp and the downsample of each level to the level to read."""


@dataclass(frozen=True, slots=True)
class RawLevel:
    """One level: (H, W, 3) uint8, the mpp of level 0 if the file says it, (height, width) of level 0."""

    pixels: NDArray[np.uint8]
    mpp: float | None
    level0_size: tuple[int, int]
