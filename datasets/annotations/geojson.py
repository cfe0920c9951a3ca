"""Reader of QuPath GeoJSON annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from tissuebench.datasets.annotations.class_names import ClassNames
from tissuebench.datasets.annotations.geojson_text import geojson_text
from tissuebench.datasets.annotations.region import Drawing
from tissuebench.datasets.annotations.repair import has_polygons
from tissuebench.datasets.types import FRAMES, FrameName
from tissuebench.errors import DataError, unknown_name

_MALFORMED = (
    AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError, ShapelyError
)  # fmt: skip
_OWN = "tissuebench"


def read_geojson(path: Path, names: ClassNames) -> Drawing:
    """Read the polygons of a QuPath export; a parent precedes its children, as QuPath draws it below them.

    The file is a FeatureCollection, a list, or a single feature, compressed or not; features may contain features
    (``features``, ``properties.childObjects``) and geometries may be collections. Annotations, cells, detections and
    tiles are read alike; a cell is represented by its outline, not by its nucleus. The class is
    ``properties.classification``: a name, or an object with ``name``, or its ``names`` joined as QuPath displays a
    derived class ("Tumor: Positive"). ``properties.name`` is a remark of the annotator and is ignored. Points, lines
    and features without a geometry are left out with a note, whatever their class.

    The member ``tissuebench`` of a file that this suite wrote says its frame; without one, such a file is from a
    version that knew only whole slides.

    Args:
        path: the export; coordinates are level-0 pixels.
        names: classes, and names that stand for them.

    Raises:
        DataError: broken file, not a feature, or unknown class.
    """
    try:
        document = json.loads(geojson_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as GeoJSON ({error}); export it from QuPath again") from None
    drawing = Drawing(path, frame=_declared_frame(path, document))
    class_names = names.class_map.names
    for number, feature in enumerate(features_of(document)):
        where = f"feature {number}"
        try:
            properties = feature.get("properties") or {}
            name = class_name_of(properties.get("classification"))
            geometry = geometry_of(feature["geometry"])
        except _MALFORMED as error:
            because = f"no member {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise DataError(f"{path}: {where} is not a GeoJSON feature ({because})") from None
        if geometry is None:
            if properties.get("objectType") != "root":  # the invisible object above all others of a QuPath hierarchy
                drawing.leave_out(where, "no geometry")
            continue
        if not has_polygons(geometry):
            kind = "no area" if geometry.is_empty else f"{geometry.geom_type} without an area"
            drawing.leave_out(where, kind)
            continue
        class_id = names.class_id(where, [name])
        if class_id is not None:
            drawing.add(class_id, geometry, f"{where} ({class_names[class_id]!r})")
    return drawing


def _declared_frame(path: Path, document: Any) -> FrameName | None:  # noqa: ANN401 - bytes become objects here
    own = document.get(_OWN) if isinstance(document, dict) else None
    if not isinstance(own, dict):
        return None
    said = own.get("frame", "slide")
    frame = next((name for name in FRAMES if name == said and name != "auto"), None)
    if frame is None:
        raise DataError(f"{path}: member {_OWN!r}: {unknown_name('frame', str(said), FRAMES[1:])}")
    return frame


def features_of(document: Any) -> Iterator[Any]:  # noqa: ANN401 - bytes become objects here
    """Yield the features of a document, parents before their children."""
    waiting = list(reversed(document)) if isinstance(document, list) else [document]
    if not isinstance(document, list | dict):
        return
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict) or "features" not in item or "geometry" in item:
            yield item
        waiting.extend(reversed(_children(item)))


def _children(item: Any) -> list[Any]:  # noqa: ANN401 - bytes become objects here
    if not isinstance(item, dict):
        return []
    properties = item.get("properties")
    holders = [(item, "features")]
    if isinstance(properties, dict):
        holders += [(properties, "childObjects"), (properties, "children")]
    found: list[Any] = []
    for holder, key in holders:
        children = holder.get(key)
        found += children if isinstance(children, list) else []
    return found


def class_name_of(classification: Any) -> str:  # noqa: ANN401 - bytes become objects here
    """Return the class of a feature, the names of a derived one joined; empty if it has none."""
    if isinstance(classification, dict):
        name = classification.get("name")
        classification = classification.get("names") if name is None or name == "" else name
    if isinstance(classification, list):
        return ": ".join(map(str, classification))
    return "" if classification is None else str(classification)


def geometry_of(described: Any) -> BaseGeometry | None:  # noqa: ANN401 - bytes become objects here
    """Return the geometry; if it is malformed, without rings of fewer than three corners and third coordinates."""
    if described is None:
        return None
    with np.errstate(invalid="ignore"):  # non-finite coordinates are refused when the region is made
        try:
            return shape(described)
        except _MALFORMED:
            if described.get("type") not in ("Polygon", "MultiPolygon"):
                raise
            single = described["type"] == "Polygon"
            parts = [described["coordinates"]] if single else described["coordinates"]
            whole = [rings for rings in map(_plain_rings, parts) if rings]
            return shape({"type": "MultiPolygon", "coordinates": whole})


def _plain_rings(rings: list[list[list[float]]]) -> list[list[list[float]]]:
    """Return the rings of a polygon that enclose something, in two coordinates; none if its outline does not."""
    plain = [[corner[:2] for corner in ring] for ring in rings]
    if not plain or len(plain[0]) < 3:
        return []
    return [ring for ring in plain if len(ring) >= 3]
