"""QuPath GeoJSON to a label raster: polygons with holes, drawn in file order, later over earlier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import rasterize
from shapely import get_parts, make_valid
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon, Polygon, shape
from shapely.geometry.base import BaseGeometry, BaseMultipartGeometry

from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import DataError, unknown_name


def read_geojson(path: Path, class_map: ClassMap, size: tuple[int, int], scale: float) -> NDArray[np.uint8]:
    """Rasterise the annotations of one slide; a pixel belongs to a polygon if its centre does.

    Args:
        path: a FeatureCollection, a list of features or one feature, in level-0 pixels.
        class_map: names that ``properties.classification.name`` may take.
        size: (height, width) of the raster.
        scale: level-0 pixels per raster pixel.

    Returns:
        (height, width) uint8 class ids, ``IGNORE_LABEL`` where nothing was drawn.

    Raises:
        DataError: missing or broken file, feature without a class, unknown class name.
    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the manifest's column 'annotation'") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as GeoJSON ({error}); export it from QuPath again") from None
    shapes = [
        (geometry, class_map.names.index(name)) for geometry, name in _classified(path, _features(document), class_map)
    ]
    if not shapes:
        raise DataError(f"{path}: holds no annotation with an area")
    raster: NDArray[np.uint8] = rasterize(
        shapes, out_shape=size, fill=IGNORE_LABEL, transform=Affine.scale(scale), dtype=np.uint8
    )
    return raster


def _features(document: Any) -> list[Any]:  # noqa: ANN401 - bytes become objects here
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        features = document.get("features", [document])
        return features if isinstance(features, list) else []
    return []


def _classified(path: Path, features: list[Any], class_map: ClassMap) -> list[tuple[BaseGeometry, str]]:
    found: list[tuple[BaseGeometry, str]] = []
    for number, feature in enumerate(features):
        try:
            properties = feature.get("properties") or {}
            name = (properties.get("classification") or {}).get("name")
            geometry = shape(feature["geometry"])
        except (AttributeError, KeyError, TypeError, ValueError, ShapelyError) as error:
            raise DataError(f"{path}: feature {number} is not a GeoJSON feature ({error})") from None
        if not name:
            raise DataError(f"{path}: feature {number} has no class; set one in QuPath")
        if name not in class_map.names:
            raise DataError(f"{path}: feature {number}: {unknown_name('class', str(name), class_map.names)}")
        area = _area(geometry)
        if not area.is_empty:
            found.append((area, name))
    return found


def _area(geometry: BaseGeometry) -> MultiPolygon:
    # A repair leaves lines where a polygon had spikes, and rasterize would burn those in as well.
    parts = list(get_parts(geometry if geometry.is_valid else make_valid(geometry)))
    polygons: list[Polygon] = []
    while parts:
        part = parts.pop(0)
        if isinstance(part, Polygon):
            polygons.append(part)
        elif isinstance(part, BaseMultipartGeometry):
            parts.extend(part.geoms)
    return MultiPolygon([polygon for polygon in polygons if polygon.area > 0])
