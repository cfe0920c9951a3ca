"""Reader of Aperio ImageScope XML annotations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from shapely.affinity import scale, translate
from shapely.geometry import Point, Polygon, box

from tissuebench.datasets.annotations.class_names import ClassNames
from tissuebench.datasets.annotations.holes import cut_holes
from tissuebench.datasets.annotations.region import Drawing, Region
from tissuebench.datasets.annotations.xml_file import point_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_FREEHAND, _RECTANGLE, _ELLIPSE = "0", "1", "2"
_ELLIPSE_ERROR_PX = 0.1


def read_aperio(path: Path, root: Element, names: ClassNames) -> Drawing:
    """Read the regions of an ImageScope file, layer by layer in file order.

    ImageScope has no field for a class, so its users put it in different places. The class of a region is the one class
    named by its layer's ``Name``, its own ``Text``, its layer's attribute ``Description`` or its own; other words in
    these fields are remarks, and two fields that name different classes are an error. If no field names a class, the
    first non-empty one is unknown.

    Regions with ``NegativeROA="1"`` are holes in the regions of their layer. ``Type`` 0 is a closed outline, 1 a
    rectangle, 2 an ellipse given by the corners of its box; other types (arrows, rulers) are left out with a note.

    Args:
        path: the file, for messages.
        root: its element ``Annotations``; coordinates are level-0 pixels.
        names: classes, and names that stand for them.

    Raises:
        DataError: two classes, or non-numeric coordinates.
    """
    drawing = Drawing(path)
    solids: list[tuple[str, Region]] = []
    holes: list[tuple[str, Region]] = []
    for layer_number, layer in enumerate(root.iterfind("Annotation")):
        said = [layer.get("Name", ""), _description(layer)]
        for number, element in enumerate(layer.iterfind("Regions/Region")):
            where = f"region {number} of layer {layer_number} ({said[0] or said[1]!r})"
            kind = element.get("Type", _FREEHAND)
            if kind not in (_FREEHAND, _RECTANGLE, _ELLIPSE):
                drawing.leave_out(where, f"type {kind} without an area")
                continue
            negative = element.get("NegativeROA", "0").strip() == "1"
            own = [said[0], element.get("Text", ""), said[1], _description(element)]
            class_id = 0 if negative else names.class_id(where, own)
            if class_id is None:
                continue
            region = drawing.region(class_id, _outline(path, where, kind, element), where)
            if region is not None:
                (holes if negative else solids).append((str(layer_number), region))
    drawing.regions, notes = cut_holes(solids, holes)
    drawing.notes += notes
    return drawing


def _description(element: Element) -> str:
    values = (
        attribute.get("Value", "")
        for attribute in element.iterfind("Attributes/Attribute")
        if attribute.get("Name") == "Description"
    )
    return next(values, "")


def _outline(path: Path, where: str, kind: str, region: Element) -> Polygon:
    points = [point_of(path, where, vertex) for vertex in region.iterfind("Vertices/Vertex")]
    ellipse = kind == _ELLIPSE and 2 <= len(points) <= 4  # more points are an ellipse written as an outline
    if ellipse or (kind == _RECTANGLE and len(points) == 2):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        corners = min(xs), min(ys), max(xs), max(ys)
        return _ellipse(*corners) if ellipse else box(*corners)
    return Polygon(points if len(points) > 2 else [])


def _ellipse(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """Return the ellipse as a polygon that deviates by at most 0.1 px from the curve."""
    a, b = (x1 - x0) / 2, (y1 - y0) / 2
    steps = math.pi / math.sqrt(2 * _ELLIPSE_ERROR_PX / max(a, b, 1.0))
    circle = Point(0, 0).buffer(1, quad_segs=max(16, math.ceil(steps / 4)))
    return translate(scale(circle, a, b, origin=(0, 0)), (x0 + x1) / 2, (y0 + y1) / 2)
