"""Reader of ASAP XML annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shapely.geometry import Polygon, box

from tissuebench.datasets.annotations.class_names import ClassNames
from tissuebench.datasets.annotations.holes import cut_holes
from tissuebench.datasets.annotations.region import Drawing, Region
from tissuebench.datasets.annotations.xml_file import point_of
from tissuebench.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

HOLE_SUFFIX = "_hole"
_AREAS = ("Polygon", "Spline", "Rectangle")
_NO_AREAS = ("Dot", "PointSet", "Measurement", "None")


def read_asap(path: Path, root: Element, names: ClassNames) -> Drawing:
    """Read the annotations of an ASAP file, in file order.

    The class is the group that an annotation is part of, or the nearest parent group that stands for a class. A group
    ``X_hole`` contains holes in the polygons of X, unless a class has exactly that name. A spline is read as the
    polygon of its points, as in ASAP's own conversion to masks. Dots, point sets and measurements are left out with a
    note.

    Args:
        path: the file, for messages.
        root: its element ``ASAP_Annotations``; coordinates are level-0 pixels.
        names: classes, and names that stand for them.

    Raises:
        DataError: unknown type, or non-numeric coordinates.
    """
    parents = {group.get("Name", ""): group.get("PartOfGroup", "") for group in root.iterfind("AnnotationGroups/Group")}
    drawing = Drawing(path)
    solids: list[tuple[str, Region]] = []
    holes: list[tuple[str, Region]] = []
    for number, annotation in enumerate(root.iterfind("Annotations/Annotation")):
        where = f"annotation {number} ({annotation.get('Name', '')!r})"
        kind = annotation.get("Type", "")
        if kind in _NO_AREAS:
            drawing.leave_out(where, f"{kind} without an area")
            continue
        if kind not in _AREAS:
            raise DataError(f"{path}: {where} has the type {kind!r}; known: {', '.join(_AREAS + _NO_AREAS)}")
        group = _without_none(annotation.get("PartOfGroup", ""))
        is_hole = group.endswith(HOLE_SUFFIX) and not names.is_class(group)
        named = _class_of(group.removesuffix(HOLE_SUFFIX) if is_hole else group, parents, names)
        class_id = names.class_id(where, [named])
        if class_id is None:
            continue
        region = drawing.region(class_id, _outline(path, where, kind, annotation), f"{where} of {group!r}")
        if region is not None:
            (holes if is_hole else solids).append((str(class_id), region))
    drawing.regions, notes = cut_holes(solids, holes)
    drawing.notes += notes
    return drawing


def _without_none(group: str) -> str:
    return "" if group == "None" else group


def _class_of(group: str, parents: dict[str, str], names: ClassNames) -> str:
    line = [group]
    while (above := _without_none(parents.get(line[-1], ""))) and above not in line:
        line.append(above)
    exact = next((name for name in line if name and names.is_class(name)), None)
    return exact or next((name for name in line if name and names.knows(name)), group)


def _outline(path: Path, where: str, kind: str, annotation: Element) -> Polygon:
    elements = annotation.findall("Coordinates/Coordinate")
    orders = [element.get("Order", "") for element in elements]
    if all(order.isdecimal() for order in orders):
        elements = [
            element for _, element in sorted(zip(map(int, orders), elements, strict=True), key=lambda at: at[0])
        ]
    points = [point_of(path, where, element) for element in elements]
    if kind == "Rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    return Polygon(points if len(points) > 2 else [])
