"""Vectorised random fields and point patterns, the building blocks of synthetic tissue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]


def resize(field: Field, size: int, *, smooth: bool = False) -> Field:
    """Return a square field resized bilinearly, or bicubically if ``smooth``."""
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(field).resize((size, size), method), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, size: int, wavelength: float, octaves: int = 1) -> Field:
    """Return value noise with mean 0 and standard deviation 1.

    Args:
        rng: random number generator.
        size: edge of the square field.
        wavelength: typical distance between two peaks, in cells of the field.
        octaves: each further octave halves the wavelength and the amplitude.

    Returns:
        (size, size) float32.
    """
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        knots = max(4, round(2 * size * 2**octave / wavelength) + 1)
        lattice = rng.standard_normal((knots, knots), dtype=np.float32)
        total += resize(lattice, size, smooth=True) * np.float32(0.5**octave)
    total -= total.mean()
    total /= total.std() + np.float32(1e-6)
    return total


def sample(table: Field, row: Field, column: Field) -> Field:
    """Sample a periodic table bilinearly at (row, column); stretching or warping these produces fibres and cords."""
    at = np.stack([row.ravel(), column.ravel()])
    out = ndimage.map_coordinates(table, at, order=1, mode="grid-wrap", output=np.float32)
    return np.asarray(out, dtype=np.float32).reshape(row.shape)


def white_noise(rng: np.random.Generator, size: int) -> Field:
    """Return independent standard normal numbers, (size, size) float32."""
    return rng.standard_normal((size, size), dtype=np.float32)


def slopes(field: Field) -> tuple[Field, Field]:
    """Return the derivatives along the row and column axes, per cell."""
    down, right = np.gradient(field)
    return np.asarray(down, dtype=np.float32), np.asarray(right, dtype=np.float32)


def top_share(score: Field, where: Mask, share: float) -> Mask:
    """Return the cells of ``where`` with the highest scores, so that they make up ``share`` of the whole field."""
    values = score[where]
    count = min(int(share * score.size), values.size)
    if count == 0:
        return np.zeros_like(where)
    cut = np.partition(values, values.size - count)[values.size - count]
    return np.asarray(where & (score >= cut))


def scatter(rng: np.random.Generator, where: Mask, spacing: float, crowding: float = 4.0) -> Points:
    """Return random points in a mask that are at least ``spacing`` apart (dart throwing).

    Args:
        rng: random number generator.
        where: (size, size), the cells that may contain points.
        spacing: minimum distance, in cells.
        crowding: darts thrown per ``spacing``² of area; more darts give a denser packing.

    Returns:
        (n, 2) float64, row and column in cells.
    """
    cells = np.flatnonzero(where)
    if cells.size == 0:
        return np.zeros((0, 2))
    count = max(1, int(crowding * cells.size / spacing**2))
    rows, columns = np.divmod(rng.choice(cells, count), where.shape[1])
    darts = np.stack([rows, columns], axis=1) + rng.random((count, 2))
    pairs = cKDTree(darts).query_pairs(spacing, output_type="ndarray")
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    alive = [True] * count
    for first, second in pairs.tolist():
        if alive[first]:
            alive[second] = False
    return np.asarray(darts[np.array(alive)])


def at_points(field: Field, points: Points) -> Field:
    """Return the field's values in the cells that contain the points, (n,)."""
    cells = np.clip(points.astype(np.intp), 0, field.shape[0] - 1)
    return np.asarray(field[cells[:, 0], cells[:, 1]])
