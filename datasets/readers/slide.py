"""One entrance for every slide format: pixels at the target mpp, and how they map to level 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tissuebench.datasets.readers.plain import PLAIN_SUFFIXES, read_plain
from tissuebench.datasets.readers.tiff import TIFF_SUFFIXES, read_tiff
from tissuebench.errors import DataError


@dataclass(frozen=True, slots=True)
class SlideImage:
    """A whole slide at the target resolution.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        mpp: micrometres per pixel of ``pixels``; None where the source does not say and none was asked for.
        scale: pixels of level 0 per pixel of ``pixels``, as annotations are drawn in level-0 pixels.
        level0_size: (height, width) of level 0.
    """

    pixels: NDArray[np.uint8]
    mpp: float | None
    scale: float
    level0_size: tuple[int, int]


def read_slide(path: Path, target_mpp: float | None, mpp_override: float | None = None) -> SlideImage:
    """Read a slide at ``target_mpp``, or as it is where that is None.

    A pyramid is read at its coarsest level that is still fine enough, then resized with an area filter.

    Args:
        path: tiled or plain TIFF, PNG or JPEG.
        target_mpp: micrometres per pixel wanted; None takes level 0.
        mpp_override: replaces what the file says of its level 0 (the manifest's column ``mpp``).

    Raises:
        DataError: missing or unreadable file, not 8-bit RGB, or no mpp where one is needed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the manifest's column 'image'")
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        read = read_tiff
    elif suffix in PLAIN_SUFFIXES:
        read = read_plain
    else:
        raise DataError(f"{path}: unknown slide format {suffix!r}; known: {', '.join(TIFF_SUFFIXES + PLAIN_SUFFIXES)}")

    def choose(file_mpp: float | None, downsamples: list[float]) -> int:
        level0_mpp = mpp_override or file_mpp
        if target_mpp is None:
            return 0
        if level0_mpp is None:
            raise DataError(f"{path}: the file does not say its resolution; fill the manifest's column 'mpp'")
        wanted = target_mpp / level0_mpp
        fine_enough = [index for index, down in enumerate(downsamples) if down <= wanted * 1.01]
        return max(fine_enough, key=lambda index: downsamples[index], default=0)

    raw = read(path, choose)
    level0_mpp = mpp_override or raw.mpp
    if target_mpp is None or level0_mpp is None:
        return SlideImage(raw.pixels, level0_mpp, 1.0, raw.level0_size)
    height, width = (max(1, round(side * level0_mpp / target_mpp)) for side in raw.level0_size)
    pixels = raw.pixels
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, reducing_gap=None))
    return SlideImage(pixels, target_mpp, target_mpp / level0_mpp, raw.level0_size)
