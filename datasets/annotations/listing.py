"""Classes that an annotation file names, before any dataset says which there are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tissuebench.common.text_files import tidy
from tissuebench.datasets.annotations.geojson import class_name_of, features_of, geometry_of
from tissuebench.datasets.annotations.geojson_text import geojson_text
from tissuebench.datasets.annotations.label_image import PLAIN_SUFFIXES, TIFF_SUFFIXES
from tissuebench.datasets.annotations.label_pixels import open_plain, open_tiff
from tissuebench.datasets.annotations.xml_file import read_root
from tissuebench.errors import DataError

_ROWS = 1024
Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ListedName:
    """A class in one file.

    Attributes:
        name: as in the file, without blanks around it; empty for areas without a class.
        count: number of areas.
        area: their area in pixels of the slide, overlaps counted twice; 0 where the file has to be drawn to know it.
        color: colour that the file gives to the class; None if it gives none.
    """

    name: str
    count: int
    area: float
    color: Color | None = None


def listed_names(path: Path) -> list[ListedName]:
    """Return the classes that a polygon file names, in the order of their first area.

    Of ASAP's groups and ImageScope's layers only the names are read.

    Raises:
        DataError: the file cannot be read.
    """
    if path.suffix.lower() == ".xml":
        root = read_root(path)
        if root.tag == "ASAP_Annotations":
            said = (one.get("PartOfGroup", "") for one in root.iterfind("Annotations/Annotation"))
        else:
            said = (
                layer.get("Name", "") for layer in root.iterfind("Annotation") for _ in layer.iterfind("Regions/Region")
            )
        return _summed((tidy(name), 0.0, None) for name in said)
    try:
        document = json.loads(geojson_text(path))
        return _summed(_of_features(document))
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        because = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as GeoJSON ({because}); export it from QuPath again") from None


def listed_values(path: Path) -> dict[int, int]:
    """Return how many pixels of a label image have each value.

    Raises:
        DataError: the file cannot be read, or holds colours in place of values.
    """
    pixels = (open_tiff if path.suffix.lower() in TIFF_SUFFIXES else open_plain)(path, None)
    counts = np.zeros(256, np.int64)
    columns = np.arange(pixels.size[1])
    for top in range(0, pixels.size[0], _ROWS):
        rows = np.arange(top, min(top + _ROWS, pixels.size[0]))
        counts += np.bincount(pixels.take(rows, columns).ravel(), minlength=256)
    return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}


def is_label_image(path: Path) -> bool:
    """Return whether a file is read as a label image, by its suffix."""
    return path.suffix.lower() in PLAIN_SUFFIXES + TIFF_SUFFIXES


def _of_features(document: Any) -> Iterable[tuple[str, float, Color | None]]:  # noqa: ANN401 - bytes become objects here
    for feature in features_of(document):
        classification = (feature.get("properties") or {}).get("classification")
        geometry = geometry_of(feature["geometry"])
        if geometry is not None and geometry.area > 0:
            color = classification.get("color") if isinstance(classification, dict) else None
            yield tidy(class_name_of(classification)), geometry.area, _color(color)


def _color(value: Any) -> Color | None:  # noqa: ANN401 - bytes become objects here
    if isinstance(value, list) and len(value) == 3 and all(isinstance(one, int) and 0 <= one <= 255 for one in value):
        return value[0], value[1], value[2]
    return None


def _summed(found: Iterable[tuple[str, float, Color | None]]) -> list[ListedName]:
    names: dict[str, ListedName] = {}
    for name, area, color in found:
        before = names.get(name, ListedName(name, 0, 0.0))
        names[name] = ListedName(name, before.count + 1, before.area + area, before.color or color)
    return list(names.values())
