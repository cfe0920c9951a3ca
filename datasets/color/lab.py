"""Conversion between sRGB and CIE L*a*b*, a roughly perceptually uniform space, in numpy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_XYZ_FROM_RGB: Final = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_RGB_FROM_XYZ: Final = np.linalg.inv(_XYZ_FROM_RGB)
_WHITE: Final = (0.95047, 1.0, 1.08883)
_GREY_LEVELS: Final = np.arange(256) / 255
_LINEAR: Final = np.where(_GREY_LEVELS > 0.04045, ((_GREY_LEVELS + 0.055) / 1.055) ** 2.4, _GREY_LEVELS / 12.92)
"""Linear light of each of the 256 sRGB grey levels; with a table, a pixel's value never depends on its neighbours."""


def rgb_to_lab(pixels: NDArray[np.uint8]) -> Floats:
    """Return the L*a*b* values of sRGB pixels, for daylight (D65, 2 degrees).

    With X, Y, Z relative to white and f(t) = ∛t above .008856 and 7.787 t + 16/116 below: L* = 116 f(Y) - 16,
    a* = 500 (f(X) - f(Y)), b* = 200 (f(Y) - f(Z)).

    Args:
        pixels: (..., 3) uint8.

    Returns:
        (..., 3) float64: L* in 0..100, a* and b* about -128..127.

    Source: CIE 15:2004; sRGB is IEC 61966-2-1.
    """
    curved = []
    for channel in _mixed(_LINEAR[pixels], _XYZ_FROM_RGB / np.array(_WHITE)[:, None]):
        curved.append(np.where(channel > 0.008856, np.cbrt(channel), 7.787 * channel + 16 / 116))
    x, y, z = curved
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_rgb(lab: Floats) -> Floats:
    """Return the sRGB pixels of L*a*b* values, the inverse of ``rgb_to_lab``; out-of-gamut colours are clipped.

    Args:
        lab: (..., 3) float64.

    Returns:
        (..., 3) float64 in 0..1.
    """
    y = (lab[..., 0] + 16) / 116
    curved = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(curved > 0.2068966, curved**3, (curved - 16 / 116) / 7.787) * _WHITE
    linear = np.clip(np.stack(_mixed(xyz, _RGB_FROM_XYZ), axis=-1), 0, 1)
    return np.clip(np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear), 0, 1)


def _mixed(channels: Floats, matrix: Floats) -> list[Floats]:
    """Return ``matrix @ channel vector`` per pixel, summed in the same order for any shape, unlike a BLAS product."""
    first, second, third = (channels[..., channel] for channel in range(3))
    return [row[0] * first + row[1] * second + row[2] * third for row in matrix]
