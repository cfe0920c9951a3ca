"""Conversion of pigments to colours: the laboratory's stains and the scanner, both different for each patient.

Light follows the Beer-Lambert law, I = I0 · exp(-(H·od_H + E·od_E + R·od_R)), with stain vectors between those of
Ruifrok and Johnston (2001) and of Macenko et al. (2009), jittered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tissuebench.datasets.synthetic.fields import Field, resize, smooth_noise
from tissuebench.datasets.synthetic.tissues import Pigments

Rgb = tuple[float, float, float]

HAEMATOXYLIN = np.array([[0.650, 0.704, 0.286], [0.563, 0.720, 0.406]])
EOSIN = np.array([[0.092, 0.954, 0.283], [0.216, 0.801, 0.558]])
HAEMOGLOBIN = np.array([0.16, 0.85, 0.62])


@dataclass(frozen=True)
class Stain:
    """Optical densities in red, green and blue of one unit of each pigment."""

    haematoxylin: Rgb
    eosin: Rgb
    haemoglobin: Rgb
    unevenness: float


@dataclass(frozen=True)
class Scanner:
    """Properties of the scanner, which converts light to bytes.

    Attributes:
        white: value of empty glass, 0 to 255.
        gamma: exponent of the transmitted light.
        blur_px: standard deviation of the blur due to the optics and the section thickness.
        noise: standard deviation of the sensor noise, in grey values.
        shading: relative decrease of the light towards the border.
        dust: number of specks on the slide.
    """

    white: Rgb
    gamma: float
    blur_px: float
    noise: float
    shading: float
    dust: int


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a patient's staining: hue and strength of both dyes."""

    def vector(pair: npt.NDArray[np.float64], strength: float) -> Rgb:
        mix = rng.uniform(0, 1)
        raw = np.clip((1 - mix) * pair[0] + mix * pair[1] + rng.normal(0, 0.035, 3), 0.03, 1.2)
        red, green, blue = (raw / np.linalg.norm(raw) * strength).tolist()
        return red, green, blue

    haematoxylin = vector(HAEMATOXYLIN, 1.30 * float(np.exp(np.clip(rng.normal(0, 0.18), -0.35, 0.35))))
    eosin = vector(EOSIN, 1.05 * float(np.exp(np.clip(rng.normal(0, 0.20), -0.4, 0.4))))
    red, green, blue = (HAEMOGLOBIN * 0.95).tolist()
    return Stain(haematoxylin, eosin, (red, green, blue), unevenness=float(rng.uniform(0.03, 0.10)))


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw the properties of a patient's scan: white point, contrast, sharpness, noise and dirt."""
    level = rng.uniform(236, 247)
    tint = rng.normal(0, 2.2, 3)
    red, green, blue = np.clip(level + tint, 225, 252).tolist()
    return Scanner(
        white=(red, green, blue),
        gamma=float(rng.uniform(0.88, 1.15)),
        blur_px=float(rng.uniform(0.55, 1.15)),
        noise=float(rng.uniform(1.2, 3.0)),
        shading=float(rng.uniform(0.0, 0.05)),
        dust=int(rng.integers(3, 14)),
    )


def develop(rng: np.random.Generator, pigments: Pigments, stain: Stain, scanner: Scanner) -> npt.NDArray[np.uint8]:
    """Stain and scan a slide.

    Returns:
        (size_px, size_px, 3) uint8 RGB.
    """
    size = pigments.eosin.shape[0]
    small = max(32, size // 16)
    thickness = resize(1 + np.float32(stain.unevenness) * smooth_noise(rng, small, 0.4 * small), size)
    layers = [
        ndimage.gaussian_filter(layer, scanner.blur_px, truncate=3) * thickness
        for layer in (pigments.haematoxylin, pigments.eosin, pigments.haemoglobin)
    ]
    light = resize(_lamp(rng, small, scanner.shading), size)
    dust = _dust(rng, size, scanner.dust)
    noise = np.float32(scanner.noise) * rng.standard_normal((size, size), dtype=np.float32)
    image = np.empty((size, size, 3), dtype=np.uint8)
    for channel in range(3):
        strengths = (stain.haematoxylin[channel], stain.eosin[channel], stain.haemoglobin[channel])
        density = dust.copy()
        for layer, strength in zip(layers, strengths, strict=True):
            density += np.float32(strength) * layer
        value = np.exp(-np.float32(scanner.gamma) * density) * light
        value *= np.float32(scanner.white[channel])
        value += np.roll(noise, 17 * channel, axis=1)
        image[..., channel] = np.clip(value + np.float32(0.5), 0, 255)
    return image


def _lamp(rng: np.random.Generator, size: int, shading: float) -> Field:
    """Return uneven illumination, at most 1."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    centre = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    fall = ((axis[:, None] - centre[0]) ** 2 + (axis[None, :] - centre[1]) ** 2) / np.float32(2)
    return np.asarray(1 - np.float32(shading) * fall, dtype=np.float32)


def _dust(rng: np.random.Generator, size: int, count: int) -> Field:
    """Return the optical density of out-of-focus specks, the same in all colours."""
    density = np.zeros((size, size), dtype=np.float32)
    for _ in range(count):
        radius = float(rng.uniform(2, 9))
        reach = int(3 * radius)
        if size <= 2 * reach + 2:
            continue
        top, left = rng.integers(0, size - 2 * reach - 1, 2).tolist()
        row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1] / radius
        aspect = rng.uniform(0.4, 1.0)
        tilt = rng.uniform(0, np.pi)
        along = column * np.cos(tilt) + row * np.sin(tilt)
        across = (row * np.cos(tilt) - column * np.sin(tilt)) / aspect
        speck = rng.uniform(0.05, 0.5) * np.exp(-((along**2 + across**2) ** 1.5))
        density[top : top + 2 * reach + 1, left : left + 2 * reach + 1] += speck.astype(np.float32)
    return density
