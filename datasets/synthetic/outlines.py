"""Label rasters as QuPath-style GeoJSON."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio import features
from rasterio.transform import Affine
from shapely.geometry import Polygon, mapping, shape

from tissuebench.datasets.synthetic.cohort import CLASS_NAMES

COLOURS = ((230, 230, 235), (150, 200, 150), (60, 120, 220), (80, 30, 150), (200, 30, 60), (220, 130, 20))
SIMPLIFY_CELLS = 0.75


def write_outlines(path: Path, slide_id: str, labels: npt.NDArray[np.uint8], cell_px: int) -> None:
    """Write the polygons of a label raster in drawing order.

    The first feature is the whole slide as glass, followed by all tissue as stroma, then by the other classes: a later
    feature overrides an earlier one, so simplified neighbours leave no cracks of glass between them.

    Args:
        path: the .geojson file.
        slide_id: used in the ids of the features.
        labels: (rows, columns) uint8, index into ``CLASS_NAMES``, 0 is glass.
        cell_px: level-0 pixels per cell of ``labels``.
    """
    rows, columns = labels.shape
    whole = Polygon([(0, 0), (columns, 0), (columns, rows), (0, rows)])
    drawn = [(0, whole)]
    for index in range(1, len(CLASS_NAMES)):
        member = labels > 0 if index == 1 else labels == index
        drawn += [(index, polygon) for polygon in _polygons(member)]
    collection = [_feature(f"{slide_id}/{k}", index, polygon, cell_px) for k, (index, polygon) in enumerate(drawn)]
    text = json.dumps({"type": "FeatureCollection", "features": collection}, separators=(",", ":"))
    path.write_text(text, encoding="utf-8")


def _polygons(member: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Return the connected components of a mask as polygons with holes, in cells."""
    found = features.shapes(member.astype(np.uint8), mask=member, transform=Affine.identity())
    parts = [shape(geometry).simplify(SIMPLIFY_CELLS) for geometry, _ in found]
    return [part for part in parts if isinstance(part, Polygon) and not part.is_empty]


def _feature(key: str, index: int, polygon: Polygon, cell_px: int) -> dict[str, object]:
    rings = [[[x * cell_px, y * cell_px] for x, y in ring] for ring in mapping(polygon)["coordinates"]]
    name, colour = CLASS_NAMES[index], list(COLOURS[index])
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"tissuebench/synthetic/{key}")),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": colour}},
    }
