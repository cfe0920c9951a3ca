"""Check that a slide is brightfield: fluorescence is refused."""

from __future__ import annotations

import numpy as np

from tissuebench.datasets.readers.reader import Pixels
from tissuebench.errors import DataError

MIN_MEDIAN = 64
"""Threshold of the median. Measured values: TRITC fluorescence 17; H&E slides 219 to 244; 658 H&E tiles, many without
glass, 111 to 242; the 46 synthetic slides 182 to 225."""


def require_brightfield(thumbnail: Pixels, name: str) -> None:
    """Raise unless the slide has a bright background.

    The measure is the median over the pixels of each pixel's brightest channel. In brightfield even dark nuclei
    transmit some red or blue, and most of a slide is glass or pale tissue; in fluorescence most of a slide is black.

    Args:
        thumbnail: (h, w, 3) uint8, the whole slide at a low resolution.
        name: name of the slide, for the error.

    Raises:
        DataError: the median is below 64 of 255.
    """
    median = float(np.median(thumbnail.max(axis=2)))
    if median < MIN_MEDIAN:
        raise DataError(
            f"{name}: looks like fluorescence or an inverted image (half of it is darker than {median:.0f} of 255); "
            "brightfield is needed, leave it out"
        )
