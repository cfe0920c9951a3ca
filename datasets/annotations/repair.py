"""Repair of drawn geometries: valid polygons of the covered area, even if an outline crosses itself."""

from __future__ import annotations

from collections.abc import Iterator

from shapely import force_2d, is_valid_reason, make_valid, union_all
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry, BaseMultipartGeometry


def area_of(geometry: BaseGeometry) -> tuple[MultiPolygon, str]:
    """Return the polygons of a geometry, made valid, and a short description of the defect ("" if there was none).

    An outline that crosses itself, e.g. a hand-drawn loop that overshoots its start, covers everything that it encloses
    once or twice; holes are cut out. Each polygon is repaired on its own, and overlapping ones are merged: if repaired
    together, overlapping polygons would cut holes into each other.
    """
    flat = force_2d(geometry)
    polygons = [part for part in _parts(flat) if isinstance(part, Polygon)]
    together = MultiPolygon(polygons)
    if together.is_valid:
        return _with_area(together), ""
    broken = next((part for part in polygons if not part.is_valid), None)
    united = union_all([_with_area(make_valid(part, method="structure", keep_collapsed=False)) for part in polygons])
    return _with_area(united), _complaint(broken)


def polygons_of(geometry: BaseGeometry) -> MultiPolygon:
    """Return the polygons with an area of a valid geometry; lines and points left over from clipping are dropped."""
    return _with_area(geometry)


def kinds_without_area(geometry: BaseGeometry) -> list[str]:
    """Return the types of the points and lines in a geometry, without duplicates ("Point", "LineString")."""
    return list(dict.fromkeys(part.geom_type for part in _parts(geometry) if not isinstance(part, Polygon)))


def has_polygons(geometry: BaseGeometry) -> bool:
    """Return whether any part of a geometry is a polygon, even one without an area."""
    return any(isinstance(part, Polygon) for part in _parts(geometry))


def _complaint(broken: Polygon | None) -> str:
    if broken is None:
        return "has parts that overlap or touch"
    reason = is_valid_reason(broken)
    return "crosses itself" if "elf-intersection" in reason else f"is not a polygon ({reason.split('[')[0].lower()})"


def _with_area(geometry: BaseGeometry) -> MultiPolygon:
    return MultiPolygon([part for part in _parts(geometry) if isinstance(part, Polygon) and part.area > 0])


def _parts(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    waiting = [geometry]
    while waiting:
        part = waiting.pop()
        if isinstance(part, BaseMultipartGeometry):
            waiting.extend(reversed(list(part.geoms)))
        else:
            yield part
