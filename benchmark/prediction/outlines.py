"""Polygons of the connected areas of a slide's labels, in memory that does not depend on the slide's size.

Blocks are outlined one by one. A piece that no border between blocks cuts is an area. The others wait until no
remaining block can touch them, then the pieces of an area are united. Once the waiting pieces have more than
``MAX_CORNERS`` corners in total, the largest are emitted early, cut where they are: otherwise glass around thousands of
glands would become one polygon that is too large for memory and viewers. The emitted areas cover the same pixels in any
case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from shapely import get_coordinates, get_exterior_ring, get_num_coordinates, get_parts, union_all
from shapely.affinity import translate
from shapely.geometry import MultiPolygon

from tissuebench.datasets.annotations import Region, polygons_of_raster
from tissuebench.datasets.annotations.repair import polygons_of
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.types import ClassMap
from tissuebench.prediction.label_blocks import BLOCK_PX, Labels

MAX_CORNERS = 250_000
_NOTHING = -1

Pieces = NDArray[np.int64]
"""Piece that each pixel along a border belongs to, ``_NOTHING`` if none."""


def areas_of(
    labels: Labels,
    class_map: ClassMap,
    block_px: int = BLOCK_PX,
    max_corners: int = MAX_CORNERS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Region]:
    """Yield the areas of a slide, each of one class and connected over edges of pixels, with their holes.

    Args:
        labels: labels of the slide.
        class_map: its classes.
        block_px: edge of a block.
        max_corners: maximum number of corners of all waiting pieces.
        progress: called with the number of blocks done and the total.

    Yields:
        Valid polygons in pixels of ``labels``; they are disjoint and cover all pixels other than ``IGNORE_LABEL``.

    Raises:
        DataError: a label outside the class map.
    """
    todo = list(blocks(labels.height, labels.width, block_px))
    seams = _Seams(labels.height, labels.width, max_corners)
    for done, block in enumerate(todo, start=1):
        yield from seams.add(block, polygons_of_raster(labels.read(*block), class_map, 1.0))
        progress(done, len(todo))


@dataclass(slots=True)
class _Group:
    """Pieces of one incomplete area."""

    class_id: int
    pieces: list[MultiPolygon] = field(default_factory=list)
    corners: int = 0

    def united(self) -> Region:
        """Return the area; corners are whole numbers and edges lie along the axes, so that nothing is rounded."""
        geometry = self.pieces[0] if len(self.pieces) == 1 else polygons_of(union_all(self.pieces))
        return Region(self.class_id, geometry, "area")


class _Seams:
    """Joins pieces across the borders of blocks, which come row by row."""

    def __init__(self, height: int, width: int, max_corners: int) -> None:
        self._height, self._width, self._max_corners = height, width, max_corners
        self._open: dict[int, _Group] = {}  # by the piece that stands for the group
        self._stands_for: dict[int, int] = {}
        self._next = 0
        self._above, self._below = _line(width), _line(width)
        self._left = _line(0)

    def add(self, block: tuple[int, int, int, int], regions: Sequence[Region]) -> Iterator[Region]:
        """Take in the pieces of a block; yields areas that are complete, or too large to wait."""
        y, x, height, width = block
        above, below, left, right = _line(width), _line(width), _line(height), _line(height)
        for region in regions:
            x0, y0, x1, y1 = region.geometry.bounds
            sides = [  # the line to mark, the axis that is constant along the border, and where the border lies
                (above, 1, 0) if y0 == 0 < y else None,
                (below, 1, height) if y1 == height < self._height - y else None,
                (left, 0, 0) if x0 == 0 < x else None,
                (right, 0, width) if x1 == width < self._width - x else None,
            ]
            moved = translate(region.geometry, x, y)
            if not any(sides):
                yield Region(region.class_id, moved, "area")
                continue
            piece = self._wait(region.class_id, moved)
            for side in filter(None, sides):
                _mark(side[0], region.geometry, side[1], side[2], piece)
        self._join(self._above[x : x + width], above)
        if x:
            self._join(self._left, right=left)
        self._below[x : x + width], self._left = below, right
        yield from self._shed()
        if x + width == self._width:
            yield from self._end_of_row()

    def _wait(self, class_id: int, geometry: MultiPolygon) -> int:
        piece, self._next = self._next, self._next + 1
        self._stands_for[piece] = piece
        self._open[piece] = _Group(class_id, [geometry], int(get_num_coordinates(geometry)))
        return piece

    def _find(self, piece: int) -> int:
        while (parent := self._stands_for[piece]) != piece:
            self._stands_for[piece] = piece = self._stands_for[parent]
        return piece

    def _join(self, left: Pieces, right: Pieces) -> None:
        """Unite the groups of one class that lie on both sides of a border."""
        both = (left != _NOTHING) & (right != _NOTHING)
        for one, other in np.unique(np.stack([left[both], right[both]]), axis=1).T.tolist():
            first, second = sorted((self._find(one), self._find(other)))
            if first == second or first not in self._open or second not in self._open:
                continue  # united already, or emitted
            kept, taken = self._open[first], self._open[second]
            if kept.class_id == taken.class_id:
                del self._open[second]
                self._stands_for[second] = first
                kept.pieces += taken.pieces
                kept.corners += taken.corners

    def _shed(self) -> Iterator[Region]:
        total = sum(group.corners for group in self._open.values())
        while total > self._max_corners:
            largest = max(self._open, key=lambda key: (self._open[key].corners, -key))
            total -= self._open[largest].corners
            yield self._open.pop(largest).united()

    def _end_of_row(self) -> Iterator[Region]:
        """Yield the areas that no block of the next row touches, and keep only the pieces that one may touch."""
        touched, places = np.unique(self._below, return_inverse=True)
        found = [piece if piece == _NOTHING else self._find(piece) for piece in touched.tolist()]
        kept = [key if key in self._open else _NOTHING for key in found]
        for key in sorted(set(self._open) - set(kept)):
            yield self._open.pop(key).united()
        self._above, self._below = np.array(kept, np.int64)[places], _line(self._width)
        self._stands_for = {key: key for key in self._open}


def _line(length: int) -> Pieces:
    return np.full(length, _NOTHING, np.int64)


def _mark(line: Pieces, geometry: MultiPolygon, axis: int, at: int, piece: int) -> None:
    """Write a piece's number where its edges run along the border ``at`` of ``axis`` (0 for x, 1 for y)."""
    for ring in get_exterior_ring(get_parts(geometry)):  # a hole has no edge there: it would not be closed
        corners = get_coordinates(ring)
        on_border = corners[:, axis] == at
        along = corners[:, 1 - axis].astype(np.int64)
        for start in np.flatnonzero(on_border[:-1] & on_border[1:]).tolist():
            low, high = sorted((along[start], along[start + 1]))
            line[low:high] = piece
