"""Fixtures for the readers: images that survive JPEG, exact area means, miniature pyramids."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tifffile


def smooth(height=601, width=520):
    """Low frequencies only, so that JPEG and resampling cost little."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    channels = [np.sin(y / 37 + k) * 60 + np.cos(x / (29 + 7 * k)) * 50 + 128 for k in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)


def noise(height, width, channels=3):
    """No two pixels alike: a shift or a neighbour's weight shows."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def area_mean(image, height, width):
    """Exact area resampling by hand, along one axis after the other."""

    def weights(source, target):
        edges = np.linspace(0, source, target + 1)
        grid = np.arange(source)
        overlap = np.minimum(edges[1:, None], grid + 1) - np.maximum(edges[:-1, None], grid)
        return np.clip(overlap, 0, None) / (source / target)

    rows = np.tensordot(weights(image.shape[0], height), image.astype(float), axes=(1, 0))
    return np.tensordot(weights(image.shape[1], width), rows, axes=(1, 1)).transpose(1, 0, 2)


def halve(pixels):
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def pyramid(path, image, mpp, levels=3, **options):
    """A plain pyramidal TIFF, JPEG tiles of 128 px unless told otherwise."""
    pixels = image
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            per_cm = 1e4 / (mpp * 2**level) if mpp else 0
            resolution = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"} if mpp else {}
            tiff.write(
                pixels,
                subfiletype=int(level > 0),
                photometric="rgb",
                metadata=None,
                **{"tile": (128, 128), "compression": "jpeg", **resolution, **options},
            )
            pixels = halve(pixels)
    return path


def on_canvas(image, y, x, height, width):
    """What a region must be: the crop, white where it hangs over an edge."""
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    y0, x0 = min(max(y, 0), image.shape[0]), min(max(x, 0), image.shape[1])
    part = image[y0 : max(y + height, y0), x0 : max(x + width, x0)]
    canvas[y0 - y : y0 - y + part.shape[0], x0 - x : x0 - x + part.shape[1]] = part
    return canvas


@pytest.fixture(scope="session")
def drawn():
    """Functions that draw images and write miniature slides."""
    return SimpleNamespace(
        smooth=smooth, noise=noise, area_mean=area_mean, halve=halve, pyramid=pyramid, on_canvas=on_canvas
    )
