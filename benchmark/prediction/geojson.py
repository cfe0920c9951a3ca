"""The areas of a predicted slide as GeoJSON that QuPath opens, written one area at a time.

Source of the format: RFC 7946, whose section 6.1 allows the member ``tissuebench``; annotations as QuPath 0.4 and later
write and read them (``qupath.lib.io.QuPathTypeAdapters``).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
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

_DECIMALS = 4
"""Of a level-0 pixel. A corner never gets near the centre of a pixel, and half of the file would be noise else."""


def write_geojson(
    path: Path,
    labels: Labels,
    class_map: ClassMap,
    scale: float,
    identity: str,
    about: Mapping[str, Json],
    block_px: int = BLOCK_PX,
    max_corners: int = MAX_CORNERS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write one annotation an area; what is ``IGNORE_LABEL`` is left out.

    Polygons run along the borders of pixels: rasterised at the pixels' centres they give the labels again. At the right
    and lower edge they may reach half a pixel of ``labels`` beyond the slide, as these pixels do.

    Args:
        path: the file; it is there in full or not at all.
        labels: of the slide.
        class_map: names and colours.
        scale: level-0 pixels a pixel of ``labels``; corners are in level-0 pixels.
        identity: what was predicted by what; the same gives each area the same id again.
        about: put beside ``scale`` into the member ``tissuebench``.
        block_px: edge of the blocks that are outlined at once.
        max_corners: from here on areas that reach over several blocks are cut, see ``areas_of``.
        progress: told how many blocks are done, and how many there are.

    Returns:
        How many areas there are.

    Raises:
        DataError: a label outside the class map.
    """
    count = 0
    with text_written_aside(path) as file:
        head = _compact({"scale": scale, **about})
        file.write(f'{{"type":"FeatureCollection","tissuebench":{head},"features":[')
        for area in areas_of(labels, class_map, block_px, max_corners, progress):
            file.write(",\n" if count else "\n")
            file.write(_feature(area, class_map, scale, identity))
            count += 1
        file.write("\n]}\n")
    return count


def _feature(area: Region, class_map: ClassMap, scale: float, identity: str) -> str:
    def to_level0(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.round(corners * scale, _DECIMALS)

    placed = transform(area.geometry, to_level0)
    geometry = to_geojson(placed.geoms[0] if len(placed.geoms) == 1 else placed)  # quicker than Python's json
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
    """The uppermost pixel, the leftmost of several: no other area has it."""
    corners = get_coordinates(area.geometry)
    y = corners[:, 1].min()
    x = corners[corners[:, 1] == y, 0].min()
    return f"{int(y)},{int(x)}"


def _compact(value: Mapping[str, Json]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
