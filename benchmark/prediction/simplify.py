"""Simplification of the outlines of areas: fewer corners, at most a given distance from the borders of pixels.

Two steps. First each corner is cut from the middle of one edge of a pixel to the middle of the next, which turns a
staircase into a straight line. Neighbouring areas share these middles, so that this step opens and overlaps nothing but
triangles of 1/8 pixel where three areas meet. Then the algorithm of Douglas and Peucker (Cartographica 1973), in the
form that keeps a polygon valid, leaves out points within half of the allowed distance. Each area is simplified for
itself, hence two neighbours overlap, or leave a gap, by at most the allowed distance.
"""

from __future__ import annotations

import numpy as np
from shapely import get_coordinates
from shapely.geometry import LinearRing, MultiPolygon, Polygon

from tissuebench.datasets.annotations.repair import polygons_of
from tissuebench.errors import ConfigError

MIN_TOLERANCE_PX = 1.0
"""Smallest allowed distance: cutting the corners takes .36 of a pixel, the rest is for leaving out points."""


def check_tolerance(tolerance_px: float) -> None:
    """Raise ``ConfigError`` unless the distance is 0 (borders of pixels) or at least ``MIN_TOLERANCE_PX``."""
    if tolerance_px != 0 and not MIN_TOLERANCE_PX <= tolerance_px < np.inf:
        raise ConfigError(
            f"--simplify {tolerance_px:g}: write 0 for the borders of pixels, or a distance of {MIN_TOLERANCE_PX:g} or "
            "more pixels"
        )


def simplified(area: MultiPolygon, tolerance_px: float) -> MultiPolygon:
    """Return a valid area whose outline lies within ``tolerance_px`` of that of ``area``.

    Args:
        area: polygons along borders of pixels; corners are whole numbers.
        tolerance_px: 0 returns the area as it is; otherwise at least ``MIN_TOLERANCE_PX``.
    """
    if tolerance_px == 0:
        return area
    cut = MultiPolygon([Polygon(_cut(part.exterior), [_cut(hole) for hole in part.interiors]) for part in area.geoms])
    return polygons_of(cut.simplify(tolerance_px / 2, preserve_topology=True))


def without_small_holes(area: MultiPolygon, min_area_px: float) -> MultiPolygon:
    """Return the area with its holes below ``min_area_px`` square pixels filled."""
    holes = [[hole for hole in part.interiors if Polygon(hole).area >= min_area_px] for part in area.geoms]
    if all(len(kept) == len(part.interiors) for kept, part in zip(holes, area.geoms, strict=True)):
        return area
    return MultiPolygon([Polygon(part.exterior, kept) for kept, part in zip(holes, area.geoms, strict=True)])


def _cut(ring: LinearRing) -> LinearRing:
    corners = get_coordinates(ring)[:-1]
    edges = np.roll(corners, -1, axis=0) - corners
    half = np.sign(edges) / 2  # edges lie along the axes
    points = np.stack([corners - np.roll(half, 1, axis=0), corners + half], axis=1).reshape(-1, 2)
    return LinearRing(points[(points != np.roll(points, 1, axis=0)).any(axis=1)])
