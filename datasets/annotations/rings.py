"""Polygon outlines in raster pixels, prepared so that every block is drawn from the same edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from shapely import STRtree, box, get_coordinates, get_parts, get_rings
from shapely.geometry import MultiPolygon

GRID = 256
"""Grid steps per raster pixel to which corners are rounded.

On this grid a block's offset is subtracted without rounding. The point where an edge crosses the middle of a row is
either exactly the middle of a pixel or further from it than the rounding error of float64, for sides up to 2**17
pixels. A pixel is therefore drawn identically in every block that contains it.
"""

Ring = NDArray[np.float64]
"""Corners of a closed line, (N, 2) float64 x and y; the first one is not repeated."""


class Rings:
    """Rings of all regions of a slide, with a spatial index.

    Args:
        geometries: regions in drawing order, in level-0 pixels.
        scale: level-0 pixels per raster pixel.
    """

    def __init__(self, geometries: Sequence[MultiPolygon], scale: float) -> None:
        self._rings: list[Ring] = []
        self._owners: list[int] = []
        for owner, geometry in enumerate(geometries):
            for ring in get_rings(get_parts(geometry)):
                self._rings.append(without_level_edges(np.round(get_coordinates(ring)[:-1] * (GRID / scale)) / GRID))
                self._owners.append(owner)
        lows = np.array([ring.min(axis=0) for ring in self._rings]).reshape(-1, 2)
        highs = np.array([ring.max(axis=0) for ring in self._rings]).reshape(-1, 2)
        self._tree = STRtree(box(lows[:, 0], lows[:, 1], highs[:, 0], highs[:, 1]))

    def touching(self, y0: int, x0: int, y1: int, x1: int) -> Iterator[tuple[int, list[Ring]]]:
        """Yield the regions that may cover a pixel of a block, in drawing order.

        Each is (index of the region, its rings near the block); it covers the points within an odd number of its rings.
        """
        hits = sorted(self._tree.query(box(x0, y0, x1, y1)).tolist())
        for owner, indices in groupby(hits, key=self._owners.__getitem__):
            near = [trimmed(self._rings[index], y0, x0, y1, x1) for index in indices]
            kept = [ring for ring in near if len(ring) > 2]
            if kept:
                yield owner, kept


def without_level_edges(ring: Ring) -> Ring:
    """Return a ring on the grid that covers the same pixels, without edges along the centres of a row of pixels.

    A centre is inside by the even-odd rule on crossings to its left, where an edge includes its upper end but not its
    lower one, so that two areas with a common edge share no pixel. An edge along the centres crosses nothing and should
    not count, but rasterio fills it or not depending on the direction of the ring, which trimming may reverse. Such an
    edge is therefore rerouted upwards by one step of the grid.
    """
    following = np.roll(ring, -1, axis=0)
    level = (ring[:, 1] == following[:, 1]) & (ring[:, 1] % 1 == 0.5)
    after = np.flatnonzero(level)
    detour = np.array([0.0, 1 / GRID])
    ends = np.stack([ring[level], following[level]], axis=1).reshape(-1, 2) - detour
    return np.insert(ring, np.repeat(after + 1, 2), ends, axis=0)


def trimmed(ring: Ring, y0: int, x0: int, y1: int, x1: int) -> Ring:
    """Return a ring without its excursions beyond a block's edges; it covers the same pixels of the block.

    Of consecutive corners beyond one edge the inner ones are dropped. No edge that enters the block is changed, so a
    block only pays for the part of a long tissue outline that passes through it.
    """
    for axis, edge, sign in ((0, x0, -1), (0, x1, 1), (1, y0, -1), (1, y1, 1)):
        beyond = (ring[:, axis] - edge) * sign >= 0
        if beyond.all():
            return ring[:0]
        ring = ring[~(beyond & np.roll(beyond, 1) & np.roll(beyond, -1))]
    return ring
