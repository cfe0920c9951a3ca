"""Pen ink on glass: strokes in colours that stains do not have, or black, beside glass rather than within tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tissuebench.datasets.readers.fill import areas_of, grown
from tissuebench.datasets.readers.reader import Pixels
from tissuebench.datasets.readers.regions import WHITE

_DARK, _NEUTRAL = 80, 24
_GREEN, _BLUE, _CYAN, _RED = 40, 80, 20, 90
_GLASS = 0.87
"""Least share of the slide's white that glass transmits; see ``tissue_mask``."""
_MIN_GLASS_BESIDE, _MARGIN_PX = 0.5, 3
_DILUTED, _MIN_CERTAIN = 0.3, 0.2
"""Amount of ink in a pixel at the edge of a stroke, and the least share of a stroke's pixels that are full of it."""
_MAX_SHARE_OF_STAINED = 0.5
"""Beyond it the colour is the stain's: Masson's trichrome is green, alcian blue is blue."""


def ink_mask(small: Pixels, hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels that are pen ink for certain: black, green or blue areas that lie mostly beside glass.

    H&E transmits green least. Ink is green (green at least 40 above red and blue), blue (red at most 90, blue at least
    80 and green at least 20 above it) or black (no channel above 80, all within 24). Carbon, melanin and blood lie
    within tissue; red ink has the colour of eosin and is not told.

    Args:
        small: (h, w, 3) uint8, the whole slide at a low resolution.
        hidden: (h, w) bool, pixels that show black fill, if only in part.

    Returns:
        (h, w) bool.
    """
    found = np.zeros(hidden.shape, dtype=np.bool_)
    colours = _colours(small, hidden, 1.0)
    if not any(colour.any() for colour in colours):
        return found
    brightness = small.mean(axis=2)
    glass = brightness >= _GLASS * max(float(np.percentile(brightness, 99)), 200.0)
    stained = np.count_nonzero(~glass & ~hidden)
    for colour, diluted in zip(colours, _colours(small, hidden, _DILUTED), strict=True):
        if np.count_nonzero(colour) > _MAX_SHARE_OF_STAINED * stained:
            continue
        areas, large = areas_of(colour | (diluted & ~glass))
        boxes = ndimage.find_objects(areas)
        for number in np.flatnonzero(large).tolist():
            box = tuple(slice(max(side.start - _MARGIN_PX, 0), side.stop + _MARGIN_PX) for side in boxes[number - 1])
            area = areas[box] == number
            if float(colour[box][area].mean()) >= _MIN_CERTAIN and _is_beside(area, glass[box]):
                found[box] |= area
    return found


def _colours(small: Pixels, hidden: NDArray[np.bool_], amount: float) -> tuple[NDArray[np.bool_], ...]:
    """Return the pixels that are black, green and blue; ``amount`` below 1 includes ink mixed with glass at edges."""
    red, green, blue = (small[..., channel].astype(np.int16) for channel in range(3))
    high, low = small.max(axis=2), small.min(axis=2)
    return (
        (high <= WHITE - amount * (WHITE - _DARK)) & (high - low <= _NEUTRAL) & ~hidden,
        (green - np.maximum(red, blue) >= amount * _GREEN) & ~hidden,
        (red <= WHITE - amount * (WHITE - _RED))
        & (blue - red >= amount * _BLUE)
        & (green - red >= amount * _CYAN)
        & (blue >= green)
        & ~hidden,
    )


def _is_beside(area: NDArray[np.bool_], glass: NDArray[np.bool_]) -> bool:
    """Return whether glass is most of what lies around an area, a pixel away from its blurred edge."""
    edge = grown(area)
    around = grown(edge) & ~edge
    return bool(around.any()) and float(glass[around].mean()) >= _MIN_GLASS_BESIDE
