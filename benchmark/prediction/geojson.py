"""GeoJSON export of a predicted slide's areas for QuPath, written one area at a time.

Source of the format: RFC 7946, whose section 6.1 allows the member ``tissuebench``; annotations as QuPath 0.4 and later
write and read them (``qupath.lib.io.QuPathTypeAdapters``).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from shapely import get_coordinates, to_geojson, transform

from tissuebench.common.files import text_written_aside
from tissuebench.common.hashing import Json
from tissuebench.datasets.annotations import Region
from tissuebench.datasets.types import ClassMap
from tissuebench.prediction.label_blocks import BLOCK_PX, Labels
from tissuebench.prediction.outlines import MAX_CORNERS, areas_of
from tissuebench.prediction.simplify import simplified, without_small_holes

_DECIMALS, _DECIMALS_SIMPLIFIED = 4, 2
"""Decimals of a level-0 pixel. Corners are never near a pixel's centre, and more digits would only be noise."""


@dataclass(frozen=True, slots=True)
class OutlineSettings:
    """Form of the outlines.

    Attributes:
        origin: level-0 pixel (y, x) that has the coordinates 0, 0 in the file.
        min_area_px: areas below this number of square pixels of the labels are left out, and holes below it are filled.
        simplify_px: maximum distance between an outline and the borders of pixels, see ``simplified``; 0 keeps them.
    """

    origin: tuple[int, int] = (0, 0)
    min_area_px: float = 0.0
    simplify_px: float = 0.0


EXACT = OutlineSettings()
"""Every area, along the borders of pixels."""


def write_geojson(
    path: Path,
    labels: Labels,
    class_map: ClassMap,
    scale: float,
    identity: str,
    about: Mapping[str, Json],
    settings: OutlineSettings = EXACT,
    block_px: int = BLOCK_PX,
    max_corners: int = MAX_CORNERS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write one annotation per area; pixels with ``IGNORE_LABEL`` are left out.

    Unless they are simplified, polygons run along the borders of pixels: rasterised at the pixel centres they reproduce
    the labels. At the right and lower edge they may extend up to half a pixel of ``labels`` beyond the slide, as these
    pixels do. A hole that is filled holds no area that is written, as these are smaller still; an area that was cut for
    its size counts by its parts.

    Args:
        path: the output file, written atomically; compressed if its name ends with ``.gz``.
        labels: labels of the slide.
        class_map: names and colours.
        scale: level-0 pixels per pixel of ``labels``; corners are in level-0 pixels.
        identity: identifies slide and trial; the same value gives each area the same id again.
        about: added next to ``scale`` in the member ``tissuebench``.
        settings: form of the outlines.
        block_px: edge of the blocks that are outlined at once.
        max_corners: number of corners above which areas that span several blocks are cut, see ``areas_of``.
        progress: called with the number of blocks done and the total.

    Returns:
        Number of areas.

    Raises:
        DataError: a label outside the class map.
    """
    count = 0
    with text_written_aside(path) as file:
        head = _compact({"scale": scale, **about})
        file.write(f'{{"type":"FeatureCollection","tissuebench":{head},"features":[')
        for area in areas_of(labels, class_map, block_px, max_corners, progress):
            if area.geometry.area < settings.min_area_px:
                continue
            file.write(",\n" if count else "\n")
            file.write(_feature(area, class_map, scale, identity, settings))
            count += 1
        file.write("\n]}\n")
    return count


def _feature(area: Region, class_map: ClassMap, scale: float, identity: str, settings: OutlineSettings) -> str:
    decimals = _DECIMALS_SIMPLIFIED if settings.simplify_px else _DECIMALS
    origin = settings.origin[::-1]

    def to_level0(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.round(corners * scale - np.array(origin, np.float64), decimals), np.float64)

    outline = simplified(without_small_holes(area.geometry, settings.min_area_px), settings.simplify_px)
    placed = transform(outline, to_level0)
    geometry = to_geojson(placed.geoms[0] if len(placed.geoms) == 1 else placed)  # faster than Python's json
    geometry = geometry.replace(".0,", ",").replace(".0]", "]")  # a sixth of a file in whole pixels
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"tissuebench:{identity}:{area.class_id}:{_first_pixel(area)}")
    properties = _compact(
        {
            "objectType": "annotation",
            "classification": {
                "name": class_map.names[area.class_id],
                "color": list(class_map.colors[area.class_id]),
            },
        }
    )
    return f'{{"type":"Feature","id":"{name}","geometry":{geometry},"properties":{properties}}}'


def _first_pixel(area: Region) -> str:
    """Return the uppermost pixel, or the leftmost of several, as text: no other area has it."""
    corners = get_coordinates(area.geometry)
    y = corners[:, 1].min()
    x = corners[corners[:, 1] == y, 0].min()
    return f"{int(y)},{int(x)}"


def _compact(value: Mapping[str, Json]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
