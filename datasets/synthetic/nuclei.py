"""Nuclei: a small bank of images of one kind of nucleus, stamped at each nucleus of that kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tissuebench.datasets.synthetic.fields import Field, Points

ANGLES = 16


@dataclass(frozen=True)
class NucleusKind:
    """Appearance of one kind of nucleus.

    Attributes:
        major_um: length of the average nucleus; ``minor_um`` its width.
        size_spread: standard deviation of the logarithm of the size.
        irregularity: relative amplitude of dents in the outline.
        darkness: haematoxylin of the average nucleus, in optical density at stain strength 1.
        chromatin: contrast of the chromatin.
        rim: extra darkness of the nuclear membrane.
        nucleoli: extra darkness of the nucleoli.
        softness_px: width of the edge.
    """

    major_um: float
    minor_um: float
    size_spread: float
    irregularity: float
    darkness: float
    chromatin: float
    rim: float
    nucleoli: float = 0.0
    softness_px: float = 0.6


@dataclass(frozen=True)
class Bank:
    """Images of one kind of nucleus: (angles, variants, side, side) float32 haematoxylin, side odd."""

    pictures: npt.NDArray[np.float32]


def make_bank(rng: np.random.Generator, kind: NucleusKind, mpp: float, variants: int = 8) -> Bank:
    """Draw ``variants`` individual nuclei for each angle, in steps of 180°/``ANGLES``."""
    count = ANGLES * variants
    angle = np.repeat(np.arange(ANGLES) * np.pi / ANGLES, variants) + rng.normal(0, 0.08, count)
    size = np.exp(np.clip(rng.normal(0, kind.size_spread, count), -0.6, 0.6))
    stretch = np.exp(rng.normal(0, 0.08, count))
    major = kind.major_um / 2 / mpp * size * stretch
    minor = np.maximum(kind.minor_um / 2 / mpp * size / stretch, 0.8)
    reach = int(np.ceil(major.max() * (1 + 2 * kind.irregularity))) + 2
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)

    def each(values: npt.NDArray[np.float64]) -> Field:
        return values.astype(np.float32)[:, None, None]

    cos, sin = each(np.cos(angle)), each(np.sin(angle))
    along = (column * cos + row * sin) / each(major)
    across = (row * cos - column * sin) / each(minor)
    radius = np.hypot(along, across)
    direction = np.arctan2(across, along)
    outline = np.ones_like(radius)
    for order in (2, 3, 4, 5):
        amplitude = rng.normal(0, kind.irregularity / order**0.5, count)
        outline += each(amplitude) * np.cos(order * direction + each(rng.uniform(0, 2 * np.pi, count)))
    depth_px = (outline - radius) * each(minor)
    inside = 1 / (1 + np.exp(np.clip(-depth_px / np.float32(kind.softness_px), -30, 30)))

    grain = ndimage.gaussian_filter(rng.standard_normal(radius.shape, dtype=np.float32), (0, 0.8, 0.8), truncate=3)
    grain /= grain.std()
    picture = 1 + np.float32(kind.chromatin) * grain
    picture += np.float32(kind.rim) * np.exp(-((depth_px - 1.2) ** 2))
    if kind.nucleoli > 0:
        for _ in range(2):
            offset = rng.uniform(-0.45, 0.45, (2, count))
            spot = np.hypot((along - each(offset[0])) * each(major), (across - each(offset[1])) * each(minor))
            width = each(rng.uniform(0.75, 1.15, count) / mpp * (kind.major_um / 11.0) ** 0.5)
            seen = each((rng.random(count) < 0.75).astype(np.float64))
            picture += np.float32(kind.nucleoli) * seen * np.exp(-((spot / width) ** 4))
    tone = each(kind.darkness * np.exp(rng.normal(0, 0.12, count)))
    pictures = (inside * np.maximum(picture, 0.15) * tone).astype(np.float32)
    return Bank(pictures.reshape(ANGLES, variants, *radius.shape[1:]))


def stamp(
    rng: np.random.Generator,
    canvas: Field,
    bank: Bank,
    points: Points,
    angles: npt.NDArray[np.float64] | None = None,
) -> None:
    """Stamp one nucleus per point onto ``canvas`` in place; overlapping nuclei darken each other slightly.

    Args:
        rng: chooses the variant, and the angle if none is given.
        canvas: (size, size) float32 haematoxylin of nuclei at level 0.
        bank: images of the kind of nucleus.
        points: (n, 2) rows and columns in pixels; the slide's edge cuts nuclei off.
        angles: (n,) direction of the long axis in radians, from the column axis towards the row axis.
    """
    side = bank.pictures.shape[-1]
    count = len(points)
    turn = rng.integers(0, ANGLES, count) if angles is None else np.rint(angles / np.pi * ANGLES).astype(int) % ANGLES
    individual = rng.integers(0, bank.pictures.shape[1], count)
    corner = np.rint(points).astype(int) - side // 2
    order = np.stack([corner[:, 0], corner[:, 1], turn, individual], axis=1)
    size = canvas.shape[0]
    order = order[(corner.min(axis=1) > -side) & (corner.max(axis=1) < size)]
    for top, left, a, i in order.tolist():
        up, west = max(0, -top), max(0, -left)
        window = canvas[top + up : min(top + side, size), left + west : min(left + side, size)]
        picture = bank.pictures[a, i, up : up + window.shape[0], west : west + window.shape[1]]
        shared = np.minimum(window, picture)
        np.maximum(window, picture, out=window)
        window += np.float32(0.25) * shared
