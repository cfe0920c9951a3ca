"""Conversion of polygon regions to labels: clipping to the slide, drawing order, and rasterisation of blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import rasterize
from shapely import area, bounds, box, intersection, transform
from shapely.geometry import MultiPolygon

from tissuebench.datasets.annotations.extent import Extent
from tissuebench.datasets.annotations.region import Region
from tissuebench.datasets.annotations.repair import polygons_of
from tissuebench.datasets.annotations.rings import Rings
from tissuebench.datasets.annotations.source import Frame, blank, block_inside
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import ConfigError, DataError, unknown_name

_OVERHANG_PX = 1.0
"""Overhang beyond the slide that is clipped without a note: drawing programs round to the edge."""
_STRAY_SHARE, _LOST_SHARE = 0.1, 0.5
"""Share of the drawn area that regions outside the slide may have, and that may lie outside in all."""
_NAMED = 3


class PolygonLabels:
    """Labels drawn from polygons; a pixel belongs to a polygon if its centre does, and later ones cover earlier ones.

    Corners are rounded to 1/256 of a raster pixel, see ``rings``.

    Args:
        regions: in drawing order, within the slide.
        frame: position of the raster on the slide.
        notes: what was repaired, clipped or left out.
        background: class id of pixels that no polygon covers; ``IGNORE_LABEL`` leaves them unannotated.
        offset: see ``LabelSource``.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        frame: Frame,
        notes: Sequence[str] = (),
        background: int = IGNORE_LABEL,
        offset: tuple[int, int] = (0, 0),
    ) -> None:
        self.notes = tuple(notes)
        self.offset = offset
        self._frame = frame
        self._background = background
        self._class_ids = [region.class_id for region in regions]
        self._rings = Rings([region.geometry for region in regions], frame.scale)

    def finish(self) -> tuple[str, ...]:
        """Return the notes; see ``LabelSource.finish``."""
        return self.notes

    def raster(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the class ids of a block; see ``LabelSource.raster``."""
        labels = blank(height, width)
        block = block_inside(self._frame, y, x, height, width)
        if block.empty:
            return labels
        shapes = [
            # One polygon with all rings: the even-odd rule fills it, which leaves out the holes.
            (
                {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()] for ring in rings]},
                self._class_ids[owner],
            )
            for owner, rings in self._rings.touching(block.y0, block.x0, block.y1, block.x1)
        ]
        labels[block.within] = self._background
        if shapes:
            labels[block.within] = rasterize(
                shapes,
                out_shape=(block.y1 - block.y0, block.x1 - block.x0),
                fill=self._background,
                transform=Affine.translation(block.x0, block.y0),
                dtype=np.uint8,
            )
        return labels


def within_slide(path: Path, regions: Sequence[Region], extent: Extent) -> tuple[list[Region], list[str]]:
    """Return the regions clipped to the part of the slide in which they were drawn, in pixels of level 0.

    A note tells of regions that extended more than 1 px beyond it, and of a few small ones outside, which are left out.

    Args:
        path: the file, for messages.
        regions: regions in the coordinates of ``extent``.
        extent: that part.

    Raises:
        DataError: more than a tenth of the drawn area lies in regions outside, or more than half of it outside.
    """
    geometries = np.array([region.geometry for region in regions], dtype=object)
    boxes = bounds(geometries)
    left, upper, right, lower = extent.limits
    beyond = np.max([left - boxes[:, 0], upper - boxes[:, 1], boxes[:, 2] - right, boxes[:, 3] - lower], axis=0)
    inside = {
        index: polygons_of(intersection(regions[index].geometry, box(left, upper, right, lower)))
        for index in np.flatnonzero(beyond > 0).tolist()
    }
    with np.errstate(over="ignore"):  # an area too large for a number lies outside
        _require_inside(path, regions, area(geometries), inside, extent)
    origin = np.array([extent.x, extent.y])
    placed: list[Region] = []
    outside: list[str] = []
    clipped: list[tuple[float, str]] = []
    for index, region in enumerate(regions):
        part = inside.get(index, region.geometry)
        if part.is_empty:
            outside.append(region.label)
            continue
        if beyond[index] > _OVERHANG_PX:
            clipped.append((float(beyond[index]), region.label))
        if extent.y or extent.x:
            part = transform(part, lambda corners: corners + origin)
        placed.append(Region(region.class_id, part, region.label))
    return placed, _clipping_notes(outside, clipped, extent)


def _require_inside(
    path: Path,
    regions: Sequence[Region],
    areas: NDArray[np.float64],
    inside: Mapping[int, MultiPolygon],
    extent: Extent,
) -> None:
    """Raise if what lies outside is more than a slip of the hand."""
    lost = {index: float(areas[index] - part.area) for index, part in inside.items()}
    stray = {index: areas[index] for index, part in inside.items() if part.is_empty}
    total = float(areas.sum())
    if sum(stray.values()) <= _STRAY_SHARE * total < math.inf and sum(lost.values()) <= _LOST_SHARE * total:
        return
    worst = max(stray or lost, key=lambda index: lost[index])
    x0, y0, x1, y1 = regions[worst].geometry.bounds
    lies = "lies" if stray else "lies mostly"
    hint = "; or are its coordinates those of the whole slide (frame: slide)" if extent.cropped else ""
    raise DataError(
        f"{path}: {regions[worst].label} {lies} outside the slide (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}; "
        f"{extent.name} is {extent.width} x {extent.height} px), {sum(lost.values()) / total:.0%} of what is drawn does"
        f": was it drawn on another slide or another level{hint}?"
    )


def _clipping_notes(outside: Sequence[str], clipped: Sequence[tuple[float, str]], extent: Extent) -> list[str]:
    notes = []
    if len(clipped) > _NAMED:
        far, label = max(clipped)
        notes.append(f"{len(clipped)} regions reach beyond the slide, up to {far:.0f} px ({label}): clipped")
    else:
        notes += [f"{label} reaches {far:.0f} px beyond the slide: clipped" for far, label in clipped]
    if outside:
        lie = "lies" if len(outside) == 1 else f"and {len(outside) - 1} more lie"
        notes.append(f"{outside[0]} {lie} outside {extent.name if extent.cropped else 'the slide'}: left out")
    return notes


def check_order(class_map: ClassMap, drawing_order: tuple[str, ...]) -> None:
    """Raise unless the drawing order is valid.

    Raises:
        ConfigError: it names something that is not a class, or a class twice.
    """
    for position, name in enumerate(drawing_order):
        if name not in class_map.names:
            raise ConfigError(f"drawing order: {unknown_name('class', name, class_map.names)}")
        if name in drawing_order[:position]:
            raise ConfigError(f"drawing order names class {name!r} twice; keep one")


def in_drawing_order(
    regions: Sequence[Region], class_map: ClassMap, drawing_order: tuple[str, ...] | None
) -> list[Region]:
    """Return the regions from first to last drawn; classes that the order does not list come first.

    Within a class, and among unlisted classes, the order of the file is kept.
    """
    places = {class_map.names.index(name): place for place, name in enumerate(drawing_order or ())}
    return sorted(regions, key=lambda region: places.get(region.class_id, -1))
