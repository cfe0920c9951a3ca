"""Where tissue is, from the image alone: stained pixels absorb, glass does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tissuebench.datasets.store import TISSUE_DOWNSAMPLE

_MIN_OPTICAL_DENSITY = 0.06
"""Mean optical density above the slide's own white that counts as tissue. H&E stroma has .15 to .3."""


def tissue_mask(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tissue at 1/16: blurred optical density above the slide's background, (ceil(H/16), ceil(W/16)) of 0 and 1."""
    height, width = (-(-side // TISSUE_DOWNSAMPLE) for side in pixels.shape[:2])
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX).filter(ImageFilter.BoxBlur(1))
    intensity = np.asarray(small, dtype=np.float64).mean(axis=2)
    white = max(float(np.percentile(intensity, 99)), 200.0)
    density = -np.log10(np.clip(intensity, 1.0, None) / white)
    return np.asarray(density > _MIN_OPTICAL_DENSITY, dtype=np.uint8)
