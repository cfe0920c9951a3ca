"""Inner structure of a tumour: nests or cords between septa, lumina, and the positions of the nuclei."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from tissuebench.datasets.synthetic.fields import Field, Mask, Points, at_points, sample, scatter, slopes, smooth_noise
from tissuebench.datasets.synthetic.traits import Traits, TumourTraits


@dataclass(frozen=True)
class Growth:
    """Inner structure of a tumour, on the grid of cells.

    Attributes:
        epithelium: tumour cells, as opposed to septa and lumina.
        septum: stroma between the nests.
        weight: 0 to 1, share of a grid cell that is tumour cytoplasm.
        lumen: 0 to 1, share of it that is an empty lumen or a cleft.
        nuclei: (n, 2) rows and columns.
        angles: (n,) direction of the long axes, radians.
    """

    epithelium: Mask
    septum: Mask
    weight: Field
    lumen: Field
    nuclei: Points
    angles: npt.NDArray[np.float64]


def draw_growth(rng: np.random.Generator, region: Mask, cell_um: float, traits: Traits, tumour: TumourTraits) -> Growth:
    """Grow a tumour in ``region``; the kind of tumour matters only through ``tumour``."""
    size = region.shape[0]
    cords = _cord_noise(rng, size, cell_um, tumour)
    down, right = slopes(cords)
    steepness = np.hypot(down, right) + np.float32(1e-4)
    septum_um = np.abs(cords) / steepness * np.float32(cell_um)
    width_um = 2.2 + 2.6 * traits.fibrosis * np.clip(smooth_noise(rng, size, 120 / cell_um) + 0.6, 0, 3)
    in_septum = np.clip((width_um - septum_um) / 1.5 + 0.5, 0, 1)
    cleft_um = septum_um - width_um
    cleft = np.clip(1.5 - np.abs(cleft_um - 1.5), 0, 1)
    cleft *= np.clip(smooth_noise(rng, size, 80 / cell_um) - 1.1 + 0.6 * np.log(traits.clefts), 0, 1)

    centres = scatter(rng, region, 36 / cell_um)
    centres = centres[rng.random(len(centres)) < tumour.lumen_share]
    hole_um, to_hole = _holes(rng, region, centres, cell_um, tumour)
    hole = np.clip(0.5 - hole_um / 1.5, 0, 1) * (1 - in_septum)

    inside = region.astype(np.float32)
    lumen = inside * np.maximum(hole, cleft)
    weight = inside * (1 - in_septum)
    epithelium = region & (in_septum < 0.5) & (lumen < 0.3)
    room = epithelium & (hole_um > 0.32 * tumour.minor_um) & (cleft_um > 0.35 * tumour.minor_um)
    nuclei = scatter(rng, room, tumour.spacing_um / cell_um, crowding=4.5)

    across = np.arctan2(at_points(down, nuclei), at_points(right, nuclei)).astype(np.float64)
    radial = at_points(to_hole, nuclei).astype(np.float64)
    angles = np.where(at_points(hole_um, nuclei) < 12.0, radial, across)
    aligned = rng.random(len(nuclei)) < tumour.polarity
    angles = np.where(aligned, angles + rng.normal(0, 0.25, len(nuclei)), rng.uniform(0, np.pi, len(nuclei)))
    return Growth(epithelium, region & (in_septum > 0.5), weight, lumen, nuclei, angles)


def _cord_noise(rng: np.random.Generator, size: int, cell_um: float, tumour: TumourTraits) -> Field:
    """Return noise whose zero lines are the septa: stretched, then bent so that cords curve."""
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) - np.float32(size / 2)
    turn = np.float32(rng.uniform(0, np.pi))
    bend = 70 / cell_um
    row += bend * smooth_noise(rng, size, 380 / cell_um)
    column += bend * smooth_noise(rng, size, 380 / cell_um)
    stretch = np.float32(tumour.cord_anisotropy**0.5)
    u = (column * np.cos(turn) + row * np.sin(turn)) / stretch
    v = (row * np.cos(turn) - column * np.sin(turn)) * stretch
    knot = np.float32(0.62 * tumour.cord_um / cell_um)
    table = smooth_noise(rng, 1024, 32)
    at_row = (v / knot * 16 + 512).astype(np.float32)
    at_column = (u / knot * 16 + 512).astype(np.float32)
    return sample(table, at_row, at_column)


def _holes(
    rng: np.random.Generator, region: Mask, centres: Points, cell_um: float, tumour: TumourTraits
) -> tuple[Field, Field]:
    """Return the distance (µm) to the rim of the nearest lumen, negative inside, and the direction from its centre."""
    distance = np.full(region.shape, 1e3, dtype=np.float32)
    direction = np.zeros(region.shape, dtype=np.float32)
    if len(centres) == 0:
        return distance, direction
    cells = np.argwhere(region)
    away, nearest = cKDTree(centres).query(cells)
    radius_um = tumour.lumen_um * np.exp(rng.normal(0, 0.35, len(centres)))
    wobble = smooth_noise(rng, region.shape[0], 18 / cell_um)[region]
    distance[region] = away * cell_um - radius_um[nearest] + 1.6 * wobble
    offset = cells - centres[nearest]
    direction[region] = np.arctan2(offset[:, 0], offset[:, 1])
    return distance, direction
