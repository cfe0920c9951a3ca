"""Contents of a polygon file: classified regions in file order, and notes on the changes that were needed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from shapely import get_coordinates
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from tissuebench.datasets.annotations.repair import area_of, kinds_without_area
from tissuebench.datasets.types import FrameName
from tissuebench.errors import DataError

_NAMED = 3
"""Regions that a note names one by one; more are counted."""


@dataclass(frozen=True, slots=True)
class Region:
    """One classified area.

    Attributes:
        class_id: position in the class map.
        geometry: valid polygons with an area, x and y in level-0 pixels.
        label: name in messages, such as "feature 3 ('tumour')".
    """

    class_id: int
    geometry: MultiPolygon
    label: str


@dataclass(slots=True)
class Drawing:
    """Regions of one file while it is read, in file order, with notes on changes.

    Attributes:
        path: the file, for messages.
        regions: the areas so far.
        notes: notes on the file as a whole.
        frame: frame of the coordinates, if the file says it.
    """

    path: Path
    regions: list[Region] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    frame: FrameName | None = None
    _changed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def region(self, class_id: int, geometry: BaseGeometry, label: str) -> Region | None:
        """Return the area of a geometry as a valid region, with a note if it was repaired; None without an area.

        Raises:
            DataError: a coordinate is not a finite number.
        """
        if not np.isfinite(get_coordinates(geometry)).all():
            raise DataError(f"{self.path}: {label} has a coordinate that is not a finite number; draw it again")
        lost = kinds_without_area(geometry)
        area, repaired = area_of(geometry)
        if lost:
            self.leave_out(label, f"{' and '.join(lost)} without an area")
        elif area.is_empty:
            self.leave_out(label, "no area")
        if area.is_empty:
            return None
        if repaired:
            self._changed[f" {repaired}: repaired"].append(label)
        return Region(class_id, area, label)

    def add(self, class_id: int, geometry: BaseGeometry, label: str) -> None:
        """Add the next region of the file."""
        region = self.region(class_id, geometry, label)
        if region is not None:
            self.regions.append(region)

    def leave_out(self, label: str, why: str) -> None:
        """Note that something in the file does not become a label."""
        self._changed[f": left out ({why})"].append(label)

    def all_notes(self) -> list[str]:
        """Return the notes: one for each change of up to three regions, one with their number if there are more."""
        return [*counted_notes(self._changed), *self.notes]


def counted_notes(changed: dict[str, list[str]]) -> list[str]:
    """Return one line for each of a few regions with the same change, or one line for many.

    Args:
        changed: labels of the regions by what happened to them.
    """
    notes = []
    for what, labels in changed.items():
        if len(labels) <= _NAMED:
            notes += [f"{label}{what}" for label in labels]
        else:
            notes.append(f"{labels[0]} and {len(labels) - 1} others{what}")
    return notes
