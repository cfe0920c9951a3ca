"""Black fill: parts of a slide that were never scanned, which converters and stitchers store as black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tissuebench.datasets.readers.reader import Pixels

_BLACK = 24
"""Brightest channel of fill, with the noise of JPEG. The darkest tissue (melanin, carbon) transmits more on average."""
_MIN_SHARE, _MIN_PX = 0.002, 4
_WITH_CORNERS = np.ones((3, 3), dtype=bool)


def fill_mask(small: Pixels) -> NDArray[np.bool_]:
    """Return the pixels that are black fill: connected areas of black that cover at least 0.2 % of the slide.

    Args:
        small: (h, w, 3) uint8, the whole slide at a low resolution.

    Returns:
        (h, w) bool.
    """
    black = np.asarray(small.max(axis=2) <= _BLACK, dtype=np.bool_)
    if not black.any():
        return black
    areas, large = areas_of(black)
    return np.asarray(large[areas], dtype=np.bool_)


def areas_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the number of each pixel's connected area (h, w), 0 outside, and by number whether it is large enough."""
    areas, count = ndimage.label(mask, _WITH_CORNERS)
    sizes = np.bincount(areas.ravel(), minlength=count + 1)
    large = np.asarray(sizes >= max(_MIN_PX, _MIN_SHARE * mask.size), dtype=np.bool_)
    large[0] = False
    return areas, large


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with the pixels around it, which show its edge in part."""
    return np.asarray(ndimage.binary_dilation(mask, _WITH_CORNERS), dtype=np.bool_)
