"""Reader of QuPath GeoJSON annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from shapely.errors import ShapelyError
from shapely.geometry import shape

from tissuebench.datasets.annotations.region import ClassNames, Drawing
from tissuebench.datasets.annotations.repair import has_polygons
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError


def read_geojson(path: Path, class_map: ClassMap, region_class: str | None = None) -> Drawing:
    """Read the polygons of a QuPath export; a parent precedes its children, as QuPath draws it below them.

    The file is a FeatureCollection, a list, or a single feature; features may contain features (``features``,
    ``properties.childObjects``) and geometries may be collections. Annotations, cells, detections and tiles are read
    alike; a cell is represented by its outline, not by its nucleus. The class is ``properties.classification``: its
    ``name``, or its ``names`` joined as QuPath displays a derived class ("Tumor: Positive"). ``properties.name`` is a
    remark of the annotator and is ignored. Points and lines are left out with a note, whatever their class.

    Args:
        path: the export; coordinates are level-0 pixels.
        class_map: allowed class names.
        region_class: class of all polygons, whatever the file calls them; None uses the file's names.

    Raises:
        DataError: broken file, not a feature, feature without a class, or unknown class.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as GeoJSON ({error}); export it from QuPath again") from None
    names = ClassNames(path, class_map, region_class, "QuPath")
    drawing = Drawing(path)
    for number, feature in enumerate(_features(document)):
        where = f"feature {number}"
        try:
            properties = feature.get("properties") or {}
            if properties.get("objectType") == "root" and feature.get("geometry") is None:
                continue  # the invisible object above all others of a QuPath hierarchy
            name = _class_name(properties.get("classification") or {})
            with np.errstate(invalid="ignore"):  # non-finite coordinates are refused below
                geometry = shape(feature["geometry"])
        except (
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,
            RecursionError,
            ShapelyError,
        ) as error:
            because = " ".join(str(error).split())
            raise DataError(f"{path}: {where} is not a GeoJSON feature ({because})") from None
        if not has_polygons(geometry):
            drawing.leave_out(where, f"{geometry.geom_type} without an area")
            continue
        class_id = names.class_id(where, [name])
        drawing.add(class_id, geometry, f"{where} ({class_map.names[class_id]!r})")
    return drawing


def _features(document: Any) -> Iterator[Any]:  # noqa: ANN401 - bytes become objects here
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


def _class_name(classification: dict[str, Any]) -> str:
    name = classification.get("name")
    if name is None or name == "":
        return ": ".join(str(part) for part in classification.get("names") or [])
    return str(name)
