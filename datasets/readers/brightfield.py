"""Checks of a slide as a whole: fluorescence, inverted images and grey images are refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.readers.fill import fill_mask, grown
from tissuebench.datasets.readers.reader import Pixels
from tissuebench.errors import DataError

MIN_MEDIAN = 64
"""Threshold of the median. Measured values: TRITC fluorescence 17; H&E slides 219 to 244; 658 H&E tiles, many without
glass, 111 to 242; the 46 synthetic slides 182 to 225."""
_MIN_PALE_SHARE = 0.8
"""Minimum share of pixels above the threshold beside black fill; fluorescence fades through all dark values."""
_MIN_CONSTANT_SHARE = 0.9
"""Minimum share of fill in its commonest colour; a dark background that was scanned varies."""
_MIN_DARKEST, _MAX_GREEN = 16, 8
_COLOURLESS, _MIN_COLOURED_SHARE = 8, 0.001
_ABSORBS, _BLACK = 225, 40


def require_brightfield(thumbnail: Pixels, name: str) -> None:
    """Raise unless the slide has a bright background.

    The measure is the median over the pixels of each pixel's brightest channel. In brightfield even dark nuclei
    transmit some red or blue, and most of a slide is glass or pale tissue; in fluorescence most of a slide is black.
    Black fill of a brightfield slide is left out, if it is of one colour and what it borders is bright nearly
    everywhere, with some light in every channel (the darkest of the H&E tiles: 25) and without an excess of green,
    which H&E transmits least and its inverse most.

    Args:
        thumbnail: (h, w, 3) uint8, the whole slide at a low resolution.
        name: name of the slide, for the error.

    Raises:
        DataError: the median is below 64 of 255.
    """
    median = float(np.median(thumbnail.max(axis=2)))
    if median < MIN_MEDIAN and not _is_filled_brightfield(thumbnail, fill_mask(thumbnail)):
        raise DataError(
            f"{name}: looks like fluorescence or an inverted image (half of it is darker than {median:.0f} of 255); "
            "brightfield is needed, leave it out"
        )


def _is_filled_brightfield(thumbnail: Pixels, fill: NDArray[np.bool_]) -> bool:
    scanned = thumbnail[~grown(fill)].astype(np.int16)
    if not fill.any() or not len(scanned):
        return False
    _, counts = np.unique(thumbnail[fill], axis=0, return_counts=True)
    red, green, blue = scanned.T
    return bool(
        counts.max() >= _MIN_CONSTANT_SHARE * counts.sum()
        and (scanned.max(axis=1) >= MIN_MEDIAN).mean() >= _MIN_PALE_SHARE
        and np.median(scanned.min(axis=1)) >= _MIN_DARKEST
        and np.median(green - np.maximum(red, blue)) <= _MAX_GREEN
    )


def require_colour(thumbnail: Pixels, name: str) -> None:
    """Raise if the slide is a grey image that was saved as RGB: stained tissue has colour.

    Judged are the pixels that absorb light and are not black: fewer than 1 in 1000 has channels that differ by more
    than 8 of 255. Glass alone is not judged.

    Args:
        thumbnail: (h, w, 3) uint8, the whole slide at a low resolution.
        name: name of the slide, for the error.

    Raises:
        DataError: the image is grey.
    """
    low, high = thumbnail.min(axis=2), thumbnail.max(axis=2)
    judged = (low < _ABSORBS) & (high >= _BLACK)
    if judged.any() and float((high - low > _COLOURLESS)[judged].mean()) < _MIN_COLOURED_SHARE:
        raise DataError(f"{name}: grey in all pixels, though saved as RGB; a stained slide has colour, leave it out")
