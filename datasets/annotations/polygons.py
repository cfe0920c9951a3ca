"""Conversion of polygon regions to labels: clipping to the slide, drawing order, and rasterisation of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import rasterize
from shapely import box, intersection

from tissuebench.datasets.annotations.region import Region
from tissuebench.datasets.annotations.repair import polygons_of
from tissuebench.datasets.annotations.rings import Rings
from tissuebench.datasets.annotations.source import Frame, blank, block_inside
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import ConfigError, DataError, unknown_name

_OVERHANG_PX = 1.0
"""Overhang beyond the slide that is clipped without a note: drawing programs round to the edge."""


class PolygonLabels:
    """Labels drawn from polygons; a pixel belongs to a polygon if its centre does, and later ones cover earlier ones.

    Corners are rounded to 1/256 of a raster pixel, see ``rings``.

    Args:
        regions: in drawing order, within the slide.
        frame: position of the raster on the slide.
        notes: what was repaired, clipped or left out.
        background: class id of pixels that no polygon covers; ``IGNORE_LABEL`` leaves them unannotated.
    """

    def __init__(
        self, regions: Sequence[Region], frame: Frame, notes: Sequence[str] = (), background: int = IGNORE_LABEL
    ) -> None:
        self.notes = tuple(notes)
        self._frame = frame
        self.offset = (0, 0)
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


def within_slide(path: Path, regions: Sequence[Region], frame: Frame) -> tuple[list[Region], list[str]]:
    """Return the regions clipped to the slide, and a note on each that extended more than 1 px beyond it.

    Raises:
        DataError: a region lies entirely outside the slide.
    """
    height, width = frame.level0_size
    placed: list[Region] = []
    notes: list[str] = []
    for region in regions:
        x0, y0, x1, y1 = region.geometry.bounds
        beyond = max(-x0, -y0, x1 - width, y1 - height)
        if beyond <= 0:
            placed.append(region)
            continue
        inside = polygons_of(intersection(region.geometry, box(0, 0, width, height)))
        if inside.is_empty:
            raise DataError(
                f"{path}: {region.label} lies outside the slide (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}; "
                f"slide is {width} x {height} px): was it drawn on another slide or another level?"
            )
        if beyond > _OVERHANG_PX:
            notes.append(f"{region.label} reaches {beyond:.0f} px beyond the slide: clipped")
        placed.append(Region(region.class_id, inside, region.label))
    return placed, notes


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
