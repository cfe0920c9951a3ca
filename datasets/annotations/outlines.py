"""Conversion of labels to polygons: outlines of a raster, and GeoJSON for QuPath."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import shapes
from shapely.geometry import mapping, shape

from tissuebench.common.files import write_aside
from tissuebench.datasets.annotations.region import Region
from tissuebench.datasets.annotations.repair import area_of
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import DataError


def polygons_of_raster(raster: NDArray[np.uint8], class_map: ClassMap, scale: float) -> list[Region]:
    """Return one region per connected area, along its pixel borders and with holes, sorted by class.

    Areas that touch only at a corner are separate. ``IGNORE_LABEL`` is left out.

    Args:
        raster: (H, W) uint8 class ids.
        class_map: the classes.
        scale: level-0 pixels per raster pixel; the regions are in level-0 pixels.

    Raises:
        DataError: an id outside the class map.
    """
    drawn = raster != IGNORE_LABEL
    wrong = np.unique(raster[drawn & (raster >= len(class_map))])
    if wrong.size:
        raise DataError(f"label value {wrong[0]} is outside the class map (0 to {len(class_map) - 1})")
    found = shapes(np.ascontiguousarray(raster), mask=drawn, connectivity=4, transform=Affine.scale(scale))
    regions = []
    for number, (outline, value) in enumerate(found):
        class_id = int(value)
        # If an outline touches itself at a corner, the repair returns the same area as valid rings.
        area, _ = area_of(shape(outline))
        regions.append(Region(class_id, area, f"area {number} ({class_map.names[class_id]!r})"))
    return sorted(regions, key=lambda region: region.class_id)


def write_geojson(path: Path, regions: Sequence[Region], class_map: ClassMap) -> None:
    """Write regions as a FeatureCollection of QuPath annotations; the file is written atomically.

    Args:
        path: the file; it is replaced.
        regions: in drawing order, in level-0 pixels.
        class_map: names and colours of the classes.
    """
    features = [
        {
            "type": "Feature",
            "geometry": mapping(region.geometry.geoms[0] if len(region.geometry.geoms) == 1 else region.geometry),
            "properties": {
                "objectType": "annotation",
                "classification": {
                    "name": class_map.names[region.class_id],
                    "color": list(class_map.colors[region.class_id]),
                },
            },
        }
        for region in regions
    ]
    document = {"type": "FeatureCollection", "features": features}
    write_aside(path, json.dumps(document, allow_nan=False).encode())
