"""Contents of a polygon file: classified regions in file order, and notes on the changes that were needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from shapely import get_coordinates
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from tissuebench.datasets.annotations.repair import area_of, kinds_without_area
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError, unknown_name


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


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Mapping from the names in one file to class ids.

    Attributes:
        path: the file, for messages.
        class_map: allowed class names.
        region_class: class of all regions, whatever the file calls them; None uses the file's names.
        program: annotation program in which to correct the file, for messages.
    """

    path: Path
    class_map: ClassMap
    region_class: str | None
    program: str

    def knows(self, name: str) -> bool:
        """Return whether a class has this name."""
        return name in self.class_map.names

    def class_id(self, where: str, names: Sequence[str]) -> int:
        """Return the id of the single class among a region's names.

        Args:
            where: the region, for messages.
            names: names from the file, most reliable first; empty ones are ignored.

        Raises:
            DataError: no name, none that is a class (the first is shown), or names of two different classes.
        """
        if self.region_class is not None:
            return self.class_map.names.index(self.region_class)
        said = [name for name in names if name]
        classes = list(dict.fromkeys(name for name in said if self.knows(name)))
        if not said:
            raise DataError(f"{self.path}: {where} has no class; set one in {self.program}")
        if not classes:
            raise DataError(f"{self.path}: {where}: {unknown_name('class', said[0], self.class_map.names)}")
        if len(classes) > 1:
            raise DataError(
                f"{self.path}: {where} is called {classes[0]!r} and {classes[1]!r}, which are two classes; "
                f"keep one in {self.program}"
            )
        return self.class_map.names.index(classes[0])


@dataclass(slots=True)
class Drawing:
    """Regions of one file while it is read, in file order, with notes on changes."""

    path: Path
    regions: list[Region] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
            self.notes.append(f"{label} {repaired}: repaired")
        return Region(class_id, area, label)

    def add(self, class_id: int, geometry: BaseGeometry, label: str) -> None:
        """Add the next region of the file."""
        region = self.region(class_id, geometry, label)
        if region is not None:
            self.regions.append(region)

    def leave_out(self, label: str, why: str) -> None:
        """Note that something in the file does not become a label."""
        self.notes.append(f"{label}: left out ({why})")
