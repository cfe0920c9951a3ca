"""Opening a slide for prediction, at the resolution that the method was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.readers import Slide, open_slide, require_brightfield, require_colour
from tissuebench.errors import DataError
from tissuebench.prediction.pyramid import PICTURE_PX

_MANIFEST_HINT = "; check the manifest's"
_ENLARGED = 1.01
_THUMBNAIL_PX = 1024

Pixels = NDArray[np.uint8]


def open_trained_on(
    path: Path, mpp: float | None, given_mpp: float | None, reader: str, series: str = ""
) -> tuple[Slide, list[str]]:
    """Open a slide at the resolution of the training, with warnings about what may degrade its prediction.

    Args:
        path: a slide file, or the folder of an OME-Zarr image.
        mpp: micrometres per pixel of the training; None if its data do not say, in which case the slide keeps its own
            resolution.
        given_mpp: micrometres per pixel of the slide, overriding the value in the file.
        reader: name of the reader; empty selects it by the suffix.
        series: image of a file that holds several, see ``open_slide``.

    Raises:
        DataError: no such slide, not a slide, not brightfield, or its resolution is required and unknown.
    """
    try:
        with open_slide(path, None, None, reader, series) as slide:
            said = slide.level0_mpp
            thumbnail = slide.thumbnail(_THUMBNAIL_PX)
            require_brightfield(thumbnail, str(path))
            require_colour(thumbnail, str(path))
        level0_mpp = said if given_mpp is None else given_mpp
        if mpp is not None and level0_mpp is None:
            raise DataError(
                f"{path}: does not state its resolution, and the trial was trained at {mpp:g} µm; give --mpp"
            )
        opened = open_slide(path, mpp, given_mpp, reader, series)
    except DataError as error:
        raise DataError(str(error).partition(_MANIFEST_HINT)[0]) from None  # there is no manifest here
    warnings = []
    if said is not None and given_mpp is not None and abs(given_mpp / said - 1) > _ENLARGED - 1:
        warnings.append(f"the file says {said:.4g} µm a pixel; the given {given_mpp:.4g} is used")
    if mpp is None:
        warnings.append("the resolution of the training data is unknown: the slide was segmented at its own resolution")
    elif level0_mpp is not None and level0_mpp > mpp * _ENLARGED:
        warnings.append(
            f"the slide has {level0_mpp:.4g} µm a pixel, the training had {mpp:.4g}: it was enlarged, "
            "and details that the method has learnt to look for are not in it"
        )
    if opened.mpp is None:
        warnings.append("the resolution of the slide is unknown: areas are in pixels only; give it with --mpp")
    return opened, warnings


def picture_of(slide: Slide) -> tuple[Pixels, float]:
    """Return the whole slide at no more than ``PICTURE_PX``, (h, w, 3) uint8 RGB, and its downsampling factor.

    The factor is the number of pixels of ``slide.region`` that one pixel of the picture spans.
    """
    if max(slide.height, slide.width) <= PICTURE_PX:
        return slide.region(0, 0, slide.height, slide.width), 1.0
    return slide.thumbnail(PICTURE_PX), max(1.0, max(slide.level0_size) / PICTURE_PX) / slide.scale
