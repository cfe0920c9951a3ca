"""White background: pixels that are glass judging by their colour (Han et al., Med Image Anal 2022;80:102487)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RED, _GREEN, _BLUE, _SHIFT = 9798, 19235, 3735, 15
"""Weights .299, .587 and .114 in units of 2^-15, as in OpenCV's RGB2GRAY."""

_NOTHING = ((False, False, False),) * 3
_OVER_EDGES = ((False, True, False), (True, True, True), (False, True, False))
_WITHIN_AN_IMAGE = (_NOTHING, _OVER_EDGES, _NOTHING)
"""Connectivity within each image of a stack."""


@dataclass(frozen=True, slots=True)
class WhiteBackground:
    """Rule for white pixels that are background, for datasets in which white is never tissue.

    Attributes:
        grey_above: pixels with a grey value (0..255) above this are white.
        min_px: smaller 4-connected patches are not background.
        label: class of these pixels; None leaves them unannotated.

    Raises:
        ValueError: a number is out of its range.
    """

    grey_above: int = 200
    min_px: int = 50
    label: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.grey_above <= 255:
            raise ValueError(f"grey_above is {self.grey_above}; grey values are from 0 to 255")
        if self.min_px < 0:
            raise ValueError(f"min_px is {self.min_px}; a patch has no fewer than 0 pixels")


def white_mask(images: NDArray[np.uint8], white: WhiteBackground) -> NDArray[np.bool_]:
    """Return the white background of each image.

    Grey is .299 R + .587 G + .114 B, rounded; pixels are white if it is above ``grey_above``; 4-connected patches with
    fewer than ``min_px`` pixels are dropped.

    Args:
        images: (B, 3, H, W) RGB uint8.
        white: the rule.

    Returns:
        (B, H, W) bool, True where the image is white background.

    Examples:
        >>> images = np.full((1, 3, 16, 16), 255, dtype=np.uint8)
        >>> int(white_mask(images, WhiteBackground()).sum())
        256
    """
    from scipy import ndimage  # takes a quarter of a second, which opening a store should not pay

    red, green, blue = images.astype(np.uint32).transpose(1, 0, 2, 3)
    grey = (red * _RED + green * _GREEN + blue * _BLUE + (1 << (_SHIFT - 1))) >> _SHIFT
    patches, _ = ndimage.label(grey > white.grey_above, structure=_WITHIN_AN_IMAGE)
    is_large = np.bincount(patches.ravel(), minlength=1) >= white.min_px
    is_large[0] = False  # label 0: pixels that are not white
    found: NDArray[np.bool_] = is_large[patches]
    return found
