"""Layout of the tissue: the label raster of a slide and the shapes of its glands.

Everything here is defined on a grid of cells of 2 × 2 level-0 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tissuebench.datasets.synthetic.cohort import CLASS_NAMES, Diagnosis
from tissuebench.datasets.synthetic.fields import Field, Mask, Points, smooth_noise, top_share
from tissuebench.datasets.synthetic.traits import Traits

CELL_PX = 2
GLASS, STROMA, NORMAL_GLAND, LYMPHOCYTES, TUMOUR_A, TUMOUR_B = range(len(CLASS_NAMES))
FAR_UM = np.float32(-1e3)
CRUMB_UM2 = 500


@dataclass(frozen=True)
class Gland:
    """A gland's outline in polar form: radius(φ) = radius · (1 + Σ_k amplitude_k · cos(kφ + phase_k)), k = 2, 3, 4."""

    row: float
    column: float
    radius: float
    amplitude: tuple[float, float, float]
    phase: tuple[float, float, float]

    def outline(self, angle: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Return the radius in cells in each direction (radians)."""
        total = np.ones_like(angle)
        for order, (amplitude, phase) in enumerate(zip(self.amplitude, self.phase, strict=True), start=2):
            total = total + amplitude * np.cos(order * angle + phase)
        return self.radius * total


@dataclass(frozen=True)
class Anatomy:
    """The tissue of one slide.

    Attributes:
        labels: (cells, cells) uint8, index into ``CLASS_NAMES``.
        gland_depth_um: (cells, cells) float32, depth inside a gland; negative outside.
        glands: the normal glands.
        cell_um: edge of a cell.
    """

    labels: npt.NDArray[np.uint8]
    gland_depth_um: Field
    glands: tuple[Gland, ...]
    cell_um: float

    @property
    def tissue(self) -> Mask:
        """Mask of everything except glass."""
        return np.asarray(self.labels != GLASS)

    @property
    def tumour(self) -> Mask:
        """Mask of the tumour, of either kind."""
        return np.asarray(self.labels >= TUMOUR_A)

    @property
    def labels_px(self) -> npt.NDArray[np.uint8]:
        """The labels at level 0, (size_px, size_px) uint8."""
        return self.labels.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)


def draw_anatomy(rng: np.random.Generator, size_px: int, mpp: float, diagnosis: Diagnosis, traits: Traits) -> Anatomy:
    """Lay out a slide: tissue on glass, containing tumour, normal glands and lymphocytes; the rest is stroma."""
    size = size_px // CELL_PX
    cell_um = CELL_PX * mpp
    tissue = _draw_tissue(rng, size)
    inner_um = _inner_distance_um(tissue, cell_um)

    growth = smooth_noise(rng, size, 0.55 * size, octaves=4)
    growth += np.float32(0.004) * inner_um.clip(max=np.float32(60))
    tumour = _tidy(top_share(growth, tissue, rng.uniform(0.22, 0.33)), tissue, cell_um)

    free_um = _inner_distance_um(tissue & ~tumour, cell_um)
    wish = smooth_noise(rng, size, 0.4 * size, octaves=2) - 0.5 * growth
    glands = _place_glands(rng, free_um, wish, traits, cell_um, share=rng.uniform(0.09, 0.15))
    depth_um = _gland_depth_um(glands, size, cell_um)
    normal = (depth_um > -3.0) & tissue & ~tumour

    front = np.exp(-((free_um - 25.0) ** 2) / 40.0**2)
    attraction = smooth_noise(rng, size, max(0.2 * size, 100 / cell_um), octaves=2) + 0.6 * front.astype(np.float32)
    share = float(np.clip(0.07 * traits.inflammation, 0.05, 0.12))
    room = tissue & ~tumour & ~normal
    for generosity in (1.0, 1.25, 1.6, 2.0, 2.5):
        lymph = _tidy(top_share(attraction, room, share * generosity), room, cell_um)
        if lymph.mean() >= 0.9 * share:
            break

    labels = np.full((size, size), GLASS, dtype=np.uint8)
    labels[tissue] = STROMA
    labels[normal] = NORMAL_GLAND
    labels[tumour] = TUMOUR_A if diagnosis is Diagnosis.A else TUMOUR_B
    labels[lymph] = LYMPHOCYTES
    return Anatomy(labels, depth_um, glands, cell_um)


def _draw_tissue(rng: np.random.Generator, size: int) -> Mask:
    """Draw a core, a strip or the edge of a larger piece of tissue, with an irregular border."""
    row, column = np.mgrid[-1 : 1 : complex(0, size), -1 : 1 : complex(0, size)].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    across = (row * np.cos(angle) + column * np.sin(angle)).astype(np.float32)
    along = (column * np.cos(angle) - row * np.sin(angle)).astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:
        far = (np.abs(across) ** 2.5 + np.abs(along * rng.uniform(0.8, 1.0)) ** 2.5) ** 0.4
    elif kind == 1:
        far = np.abs(across)
    else:
        far = 0.6 * across
    border = 0.10 * smooth_noise(rng, size, 0.5 * size, octaves=2) + 0.016 * smooth_noise(rng, size, 0.09 * size, 3)
    everywhere = np.ones((size, size), dtype=np.bool_)
    tissue = top_share((border - far).astype(np.float32), everywhere, 1 - rng.uniform(0.14, 0.27))
    return np.asarray(ndimage.binary_fill_holes(tissue))


def _inner_distance_um(mask: Mask, cell_um: float) -> Field:
    """Return the distance to the nearest cell outside the mask, ignoring the slide's edge, at a quarter of the cost."""
    small: Field = ndimage.distance_transform_edt(mask[::2, ::2]).astype(np.float32) * np.float32(2 * cell_um)
    size = mask.shape[0]
    return np.asarray(small.repeat(2, axis=0).repeat(2, axis=1)[:size, :size])


def _tidy(mask: Mask, room: Mask, cell_um: float) -> Mask:
    """Smooth away details that no annotator would draw, such as cracks below about 10 µm, and drop crumbs."""
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), 4.0 / cell_um, truncate=2.5)
    parts, _ = ndimage.label((blurred > 0.5) & room)
    area = np.bincount(parts.ravel())
    keep = area * cell_um**2 >= CRUMB_UM2
    keep[0] = False
    return np.asarray(keep[parts])


def _place_glands(
    rng: np.random.Generator, free_um: Field, wish: Field, traits: Traits, cell_um: float, share: float
) -> tuple[Gland, ...]:
    """Pack glands side by side where ``wish`` is highest until they cover ``share`` of the slide."""
    size = free_um.shape[0]
    cells = rng.integers(0, size, (4000, 2))
    cells = cells[np.argsort(-wish[cells[:, 0], cells[:, 1]], kind="stable")]
    limit = 0.16 * size
    found = np.zeros((0, 3))
    glands: list[Gland] = []
    area = 0.0
    for squeeze in (1.0, 0.7, 0.45):
        for row, column in cells.tolist():
            if area >= share * size**2:
                return tuple(glands)
            radius = min(traits.gland_radius_um * float(np.exp(rng.normal(0, 0.18))) / cell_um, limit) * squeeze
            edge = min(row, column, size - 1 - row, size - 1 - column)
            if free_um[row, column] < 1.05 * radius * cell_um or edge < 0.5 * radius:
                continue
            gap = rng.uniform(2.0, 10.0) / cell_um
            if len(found) and np.any(np.hypot(found[:, 0] - row, found[:, 1] - column) < found[:, 2] + radius + gap):
                continue
            amplitude = rng.normal(0, (0.09, 0.04, 0.03))
            phase = rng.uniform(0, 2 * np.pi, 3)
            glands.append(Gland(row, column, radius, tuple(amplitude.tolist()), tuple(phase.tolist())))
            found = np.vstack([found, (row, column, radius)])
            area += np.pi * radius**2
    return tuple(glands)


def _gland_depth_um(glands: tuple[Gland, ...], size: int, cell_um: float) -> Field:
    depth = np.full((size, size), FAR_UM, dtype=np.float32)
    for gland in glands:
        reach = gland.radius * 1.4 + 12 / cell_um
        top, left = (max(0, int(centre - reach)) for centre in (gland.row, gland.column))
        bottom, right = (min(size, int(centre + reach)) for centre in (gland.row, gland.column))
        row, column = np.mgrid[top:bottom, left:right].astype(np.float32)
        row -= np.float32(gland.row)
        column -= np.float32(gland.column)
        inside = (gland.outline(np.arctan2(row, column)) - np.hypot(row, column)) * cell_um
        window = depth[top:bottom, left:right]
        np.maximum(window, inside.astype(np.float32), out=window)
    return depth


def gland_wall(
    rng: np.random.Generator, gland: Gland, depth_um: float, spacing_um: float, cell_um: float
) -> tuple[Points, npt.NDArray[np.float64]]:
    """Return positions along a gland's wall, ``depth_um`` below the outline.

    Returns:
        (n, 2) rows and columns in cells, and (n,) the direction from the centre in radians.
    """
    count = max(6, int(2 * np.pi * (gland.radius - depth_um / cell_um) * cell_um / spacing_um))
    angle = np.arange(count) * 2 * np.pi / count + rng.normal(0, 0.25 * 2 * np.pi / count, count)
    radius = gland.outline(angle) - (depth_um + rng.normal(0, 1.2, count)) / cell_um
    points = np.stack([gland.row + radius * np.sin(angle), gland.column + radius * np.cos(angle)], axis=1)
    return np.asarray(points), angle
