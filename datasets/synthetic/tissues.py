"""Painting of pigments: the amounts of haematoxylin, eosin and haemoglobin in each pixel of a slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tissuebench.datasets.synthetic.anatomy import CELL_PX, LYMPHOCYTES, NORMAL_GLAND, STROMA, Anatomy, gland_wall
from tissuebench.datasets.synthetic.fields import (
    Field,
    Mask,
    Points,
    at_points,
    resize,
    sample,
    scatter,
    slopes,
    smooth_noise,
    white_noise,
)
from tissuebench.datasets.synthetic.nuclei import NucleusKind, make_bank, stamp
from tissuebench.datasets.synthetic.traits import Traits, TumourTraits
from tissuebench.datasets.synthetic.tumour import Growth, draw_growth


@dataclass(frozen=True)
class Pigments:
    """Optical densities at stain strength 1, each (size_px, size_px) float32."""

    haematoxylin: Field
    eosin: Field
    haemoglobin: Field


@dataclass
class Painting:
    """A slide while it is painted: cytoplasm and fibres on the grid of cells, nuclei and red cells at level 0."""

    haematoxylin: Field
    eosin: Field
    nuclei: Field
    red_cells: Field
    cell_um: float

    @property
    def mpp(self) -> float:
        """Micrometres per pixel at level 0."""
        return self.cell_um / CELL_PX

    def blend(self, weight: Field, haematoxylin: Field | float, eosin: Field | float) -> None:
        """Blend cytoplasm over the existing paint; ``weight`` is 0 to 1."""
        self.haematoxylin += weight * (haematoxylin - self.haematoxylin)
        self.eosin += weight * (eosin - self.eosin)


def paint(rng: np.random.Generator, anatomy: Anatomy, traits: Traits, tumour: TumourTraits) -> Pigments:
    """Fill a slide's anatomy with cells and fibres."""
    size = anatomy.labels.shape[0]
    blank = np.zeros((size, size), dtype=np.float32)
    full = np.zeros((size * CELL_PX, size * CELL_PX), dtype=np.float32)
    canvas = Painting(blank, blank.copy(), full, full.copy(), anatomy.cell_um)
    growth = draw_growth(rng, anatomy.tumour, anatomy.cell_um, traits, tumour)

    fibre_angle = _paint_stroma(rng, canvas, anatomy, traits)
    _paint_vessels(rng, canvas, anatomy)
    _paint_lymphocytes(rng, canvas, anatomy, growth, traits)
    _paint_tumour(rng, canvas, growth, traits, tumour)
    _paint_glands(rng, canvas, anatomy, traits)
    _paint_spindles(rng, canvas, anatomy, growth, fibre_angle, traits)
    return _finish(rng, canvas, anatomy.tissue)


def _paint_stroma(rng: np.random.Generator, canvas: Painting, anatomy: Anatomy, traits: Traits) -> Field:
    """Paint wavy collagen everywhere, and return the direction of the fibres in radians."""
    size, cell_um = anatomy.labels.shape[0], canvas.cell_um
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) * np.float32(cell_um)
    turn = np.float32(rng.uniform(0, np.pi))
    u = column * np.cos(turn) + row * np.sin(turn) + 30 * smooth_noise(rng, size, 160 / cell_um)
    v = row * np.cos(turn) - column * np.sin(turn) + 32 * smooth_noise(rng, size, 190 / cell_um, octaves=2)
    v += 1.5 * np.sin(u * np.float32(2 * np.pi / 26) + smooth_noise(rng, size, 60 / cell_um))
    fine = sample(white_noise(rng, 256), v / np.float32(2.2), u / 28)
    coarse = sample(white_noise(rng, 256), v / 8, u / 70)
    cleft = np.clip((sample(white_noise(rng, 256), v / 5, u / 45) - 1.6 + 0.45 * np.log(traits.clefts)) * 2.0, 0, 1)
    eosin = (0.40 + 0.10 * fine + 0.08 * coarse) * np.float32(traits.fibrosis**0.5)
    eosin *= 1 + 0.12 * smooth_noise(rng, size, 130 / cell_um, octaves=2)
    eosin *= 1 - 0.85 * cleft
    canvas.eosin[:] = np.maximum(eosin, 0.03)
    canvas.haematoxylin[:] = 0.035 * (1 - cleft)
    slope_row, slope_column = slopes(v)
    return np.asarray(np.arctan2(slope_column, -slope_row), dtype=np.float32)


def _paint_vessels(rng: np.random.Generator, canvas: Painting, anatomy: Anatomy) -> None:
    """Paint capillaries and venules in the stroma, some of them with red cells."""
    size, cell_um = anatomy.labels.shape[0], canvas.cell_um
    room = anatomy.labels == STROMA
    places = scatter(rng, room, 110 / cell_um, crowding=1.5)
    bank = make_bank(rng, NucleusKind(8, 2.5, 0.2, 0.05, 0.8, 0.15, 0.1), canvas.mpp, variants=3)
    red = make_bank(rng, NucleusKind(6.6, 6.0, 0.08, 0.05, 0.9, 0.03, 0.0), canvas.mpp, variants=3)
    for centre in places:
        radius = float(rng.uniform(6, 19)) / cell_um
        aspect = float(rng.uniform(0.5, 1.0))
        tilt = float(rng.uniform(0, np.pi))
        reach = int(radius + 6 / cell_um) + 2
        top, left = (max(0, int(c) - reach) for c in centre)
        bottom, right = (min(size, int(c) + reach) for c in centre)
        row, column = np.mgrid[top:bottom, left:right].astype(np.float32)
        row, column = row - np.float32(centre[0]), column - np.float32(centre[1])
        along = column * np.cos(tilt) + row * np.sin(tilt)
        across = (row * np.cos(tilt) - column * np.sin(tilt)) / aspect
        wall_um = ((np.hypot(along, across) - radius) * cell_um).astype(np.float32)
        lumen = np.clip(0.5 - wall_um / 1.5, 0, 1)
        wall = np.exp(-(((wall_um - 2.0) / 1.8) ** 2)) * room[top:bottom, left:right]
        lumen *= room[top:bottom, left:right]
        window = (slice(top, bottom), slice(left, right))
        canvas.eosin[window] = canvas.eosin[window] * (1 - lumen) + 0.25 * wall + 0.03 * lumen
        canvas.haematoxylin[window] *= 1 - lumen
        count = max(3, int(radius * cell_um / 2.5))
        turn = rng.uniform(0, 2 * np.pi) + (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
        ring = _ellipse(turn, radius + 1.5 / cell_um, aspect, tilt) + centre
        stamp(rng, canvas.nuclei, bank, ring * CELL_PX, turn + tilt + np.pi / 2)
        if rng.random() < 0.7:
            inside = np.zeros((size, size), dtype=np.bool_)
            inside[window] = wall_um < -2.5
            stamp(rng, canvas.red_cells, red, scatter(rng, inside & room, 5.0 / cell_um) * CELL_PX)


def _ellipse(turn: Points, radius: float, aspect: float, tilt: float) -> Points:
    along, across = radius * np.cos(turn), radius * aspect * np.sin(turn)
    row = along * np.sin(tilt) + across * np.cos(tilt)
    column = along * np.cos(tilt) - across * np.sin(tilt)
    return np.stack([row, column], axis=1)


def _paint_lymphocytes(
    rng: np.random.Generator, canvas: Painting, anatomy: Anatomy, growth: Growth, traits: Traits
) -> None:
    """Paint dense aggregates, and single cells scattered in stroma and tumour, by the patient's inflammation."""
    cell_um = canvas.cell_um
    aggregate = anatomy.labels == LYMPHOCYTES
    canvas.blend(0.75 * aggregate.astype(np.float32), 0.10, 0.20)
    size_factor = traits.nuclear_size**0.5
    kind = NucleusKind(7.0 * size_factor, 6.4 * size_factor, 0.10, 0.05, 1.2, 0.22 * traits.chromatin, 0.12)
    bank = make_bank(rng, kind, canvas.mpp)
    points = scatter(rng, aggregate, 6.1 * size_factor / cell_um, crowding=8.0)
    stamp(rng, canvas.nuclei, bank, points * CELL_PX)
    stroma = (anatomy.labels == STROMA) | (anatomy.tumour & ~growth.epithelium)
    for where, share in ((stroma, 0.05), (growth.epithelium, 0.012)):
        strewn = scatter(rng, where, 7.5 / cell_um, crowding=share * traits.inflammation)
        stamp(rng, canvas.nuclei, bank, strewn * CELL_PX)


def _paint_tumour(
    rng: np.random.Generator, canvas: Painting, growth: Growth, traits: Traits, tumour: TumourTraits
) -> None:
    size, cell_um = growth.epithelium.shape[0], canvas.cell_um
    cytoplasm = np.float32(1) + 0.10 * smooth_noise(rng, size, 9 / cell_um, octaves=2)
    canvas.blend(growth.weight, 0.13 * np.float32(traits.basophilia) * cytoplasm, 0.34 * cytoplasm)
    canvas.blend(growth.lumen, 0.01, 0.035)
    kind = NucleusKind(
        major_um=tumour.major_um,
        minor_um=tumour.minor_um,
        size_spread=0.15 * traits.pleomorphism,
        irregularity=0.055 * traits.pleomorphism,
        darkness=tumour.darkness,
        chromatin=0.24 * traits.chromatin,
        rim=0.32,
        nucleoli=tumour.nucleoli,
    )
    bank = make_bank(rng, kind, canvas.mpp, variants=12)
    mitosis = make_bank(rng, NucleusKind(9.5, 4.2, 0.15, 0.22, 1.6, 0.15, 0.0), canvas.mpp)
    dividing = rng.random(len(growth.nuclei)) < 0.012
    stamp(rng, canvas.nuclei, bank, growth.nuclei[~dividing] * CELL_PX, growth.angles[~dividing])
    stamp(rng, canvas.nuclei, mitosis, growth.nuclei[dividing] * CELL_PX)


def _paint_glands(rng: np.random.Generator, canvas: Painting, anatomy: Anatomy, traits: Traits) -> None:
    """Paint columnar epithelium: nuclei at the base, pale mucin towards an almost empty lumen."""
    size, cell_um = anatomy.labels.shape[0], canvas.cell_um
    height = traits.epithelium_height_um
    depth = anatomy.gland_depth_um + 0.8 * smooth_noise(rng, size, 12 / cell_um)
    member = (anatomy.labels == NORMAL_GLAND).astype(np.float32)
    apical = np.clip((depth - 10) / (height - 10), 0, 1)
    cytoplasm = 1 + 0.12 * smooth_noise(rng, size, 7 / cell_um, octaves=2)
    canvas.blend(
        member * np.clip(depth + 0.5, 0, 1),
        (0.13 - 0.07 * apical) * cytoplasm,
        (0.36 - 0.14 * apical) * cytoplasm,
    )
    canvas.eosin += member * 0.16 * np.exp(-((depth / 1.2) ** 2))
    canvas.eosin += member * 0.14 * np.exp(-(((depth - height) / 1.5) ** 2))
    lumen = member * np.clip((depth - height) / 1.5, 0, 1)
    secretion = np.clip(smooth_noise(rng, size, 45 / cell_um, octaves=3) - 1.0, 0, 1)
    canvas.blend(lumen, 0.01 + 0.04 * secretion, 0.025 + 0.15 * secretion)
    major, minor = 8.2 * traits.nuclear_size**0.7, 6.3 * traits.nuclear_size**0.7
    kind = NucleusKind(major, minor, 0.08, 0.03, 0.72, 0.18 * traits.chromatin, 0.25, 0.2)
    bank = make_bank(rng, kind, canvas.mpp)
    inside = anatomy.labels == NORMAL_GLAND
    for gland in anatomy.glands:
        points, angle = gland_wall(rng, gland, 6.5, 6.8 / traits.nuclear_density**0.5, cell_um)
        kept = at_points(inside.astype(np.float32), points) > 0
        stamp(rng, canvas.nuclei, bank, points[kept] * CELL_PX, angle[kept])


def _paint_spindles(
    rng: np.random.Generator, canvas: Painting, anatomy: Anatomy, growth: Growth, angle: Field, traits: Traits
) -> None:
    """Paint fibroblasts along the fibres."""
    between_glands = (anatomy.labels == NORMAL_GLAND) & (anatomy.gland_depth_um < -1)
    where = (anatomy.labels == STROMA) | growth.septum | between_glands
    empty = ndimage.minimum_filter(canvas.eosin, max(3, round(7 / canvas.cell_um))) < 0.07
    bank = make_bank(rng, NucleusKind(15, 2.9, 0.25, 0.06, 0.72, 0.2 * traits.chromatin, 0.1), canvas.mpp)
    density = 0.2 * traits.nuclear_density**2
    points = scatter(rng, where & ~empty, 9 / canvas.cell_um, crowding=density)
    stamp(rng, canvas.nuclei, bank, points * CELL_PX, at_points(angle, points) + rng.normal(0, 0.2, len(points)))


def _finish(rng: np.random.Generator, canvas: Painting, tissue: Mask) -> Pigments:
    """Resample everything to level 0, add fine grain and clear the glass."""
    size_px = canvas.nuclei.shape[0]
    haematoxylin = resize(canvas.haematoxylin * tissue, size_px)
    eosin = resize(canvas.eosin * tissue, size_px)
    cover = resize(tissue.astype(np.float32), size_px)
    grain = 1 + np.float32(0.16) * rng.standard_normal((size_px, size_px), dtype=np.float32)
    nuclei = canvas.nuclei * cover
    eosin *= grain * (1 - 0.45 * np.minimum(nuclei, 1))
    haematoxylin += nuclei
    red = np.minimum(canvas.red_cells, 1) * cover
    eosin *= 1 - 0.6 * red
    return Pigments(haematoxylin, eosin, red)
