"""Tissue detection from the image alone: stained pixels absorb light, glass does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from tissuebench.datasets.readers.blank import blank_mask
from tissuebench.datasets.readers.fill import grown
from tissuebench.datasets.store.tile_store import TISSUE_DOWNSAMPLE

_MIN_OPTICAL_DENSITY = 0.06
"""Minimum mean optical density of tissue above the slide's own white. H&E stroma has .15 to .3."""

MIN_TISSUE_SHARE = 0.25
"""Minimum share of tissue in a tissue tile."""


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the means of 16 x 16 blocks, (ceil(H/16), ceil(W/16), 3) uint8; edge pixels pad incomplete blocks."""
    edge = TISSUE_DOWNSAMPLE
    rows, columns = (-(-side // edge) for side in pixels.shape[:2])
    missing = rows * edge - pixels.shape[0], columns * edge - pixels.shape[1]
    if any(missing):
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    total = pixels.reshape(rows, edge, columns, edge, 3).sum(axis=(1, 3), dtype=np.uint32)
    return np.asarray((total + edge * edge // 2) // (edge * edge), dtype=np.uint8)


def tissue_mask(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the tissue mask at 1/16: blurred optical density above the slide's background.

    Black fill and pen ink are not tissue; a slide without them has the mask that it would have without this rule.

    Args:
        small: the whole slide after ``shrink``, (h, w, 3) RGB.

    Returns:
        (h, w) uint8 of 0 and 1.
    """
    blank = blank_mask(small)
    if not blank.any():
        return np.asarray(_density(small) > _MIN_OPTICAL_DENSITY, dtype=np.uint8)
    hidden = grown(blank)
    if hidden.all():
        return np.zeros(hidden.shape, dtype=np.uint8)
    # A block at the edge shows fill or ink in part: it counts as the nearest block that shows none.
    nearest = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    density = _density(small[tuple(nearest)], ~hidden)
    return np.asarray((density > _MIN_OPTICAL_DENSITY) & ~blank, dtype=np.uint8)


def _density(small: NDArray[np.uint8], scanned: NDArray[np.bool_] | slice = slice(None)) -> NDArray[np.float64]:
    """Return the optical density (h, w) of blurred blocks above the 99th percentile of those scanned."""
    intensity = np.asarray(Image.fromarray(small).filter(ImageFilter.BoxBlur(1)), dtype=np.float64).mean(axis=2)
    white = max(float(np.percentile(intensity[scanned], 99)), 200.0)
    return np.asarray(-np.log10(np.clip(intensity, 1.0, None) / white), dtype=np.float64)


def tissue_pixels(mask: NDArray[np.uint8], y: int, x: int, height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels of a region of the slide are tissue, (height, width): all or none of each 16 x 16 block.

    Args:
        mask: from ``tissue_mask``.
        y: top of the region, in pixels of the slide.
        x: left of the region.
        height: height of the region, which lies within the slide.
        width: width of the region.
    """
    rows, columns = (np.arange(at, at + n) // TISSUE_DOWNSAMPLE for at, n in ((y, height), (x, width)))
    return np.asarray(mask[rows[:, None], columns] > 0, dtype=np.bool_)


def tile_shares(mask: NDArray[np.uint8], origins: NDArray[np.int64], tile_px: int) -> NDArray[np.float32]:
    """Return the share of tissue in each tile, (N,) float32 in 0..1.

    Args:
        mask: from ``tissue_mask``.
        origins: (N, 2) upper left pixels of the tiles, y and x.
        tile_px: edge length of a tile.
    """
    size = max(1, tile_px // TISSUE_DOWNSAMPLE)
    starts = origins // TISSUE_DOWNSAMPLE
    ends = np.minimum(starts + size, mask.shape)
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    (top, left), (bottom, right) = starts.T, ends.T
    marked = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(marked / ((bottom - top) * (right - left)), dtype=np.float32)
