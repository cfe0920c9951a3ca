"""Table of the area that each class covers on a predicted slide."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tissuebench.common.files import text_written_aside
from tissuebench.datasets.store.pyramid import SHARD_PX, blocks
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.prediction.label_blocks import Labels

_HEADER = ("class", "pixels", "share", "area_mm2")


@dataclass(frozen=True, slots=True)
class ClassArea:
    """Area of one class on a slide.

    Attributes:
        pixels: predicted pixels.
        share: share of all predicted pixels; 0 if there are none.
        area_mm2: square millimetres; None if the resolution is unknown.
    """

    name: str
    pixels: int
    share: float
    area_mm2: float | None


def class_areas(labels: Labels, class_map: ClassMap, mpp: float | None) -> list[ClassArea]:
    """Return the area of every class, in the order of the class map; ``mpp`` is micrometres per pixel of ``labels``."""
    counts = np.zeros(IGNORE_LABEL + 1, np.int64)
    for block in blocks(labels.height, labels.width, SHARD_PX):
        counts += np.bincount(labels.read(*block).ravel(), minlength=len(counts))
    pixels = counts[: len(class_map)].tolist()
    total = max(1, sum(pixels))
    return [
        ClassArea(name, count, count / total, None if mpp is None else count * mpp**2 / 1e6)
        for name, count in zip(class_map.names, pixels, strict=True)
    ]


def write_areas(path: Path, areas: Sequence[ClassArea]) -> None:
    """Write a CSV table with the columns class, pixels, share and area_mm2, the last one empty if unknown."""
    with text_written_aside(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        for area in areas:
            square = "" if area.area_mm2 is None else f"{area.area_mm2:.6g}"
            writer.writerow((area.name, area.pixels, f"{area.share:.6g}", square))
