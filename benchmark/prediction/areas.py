"""Area that each class covers on a predicted slide, on tissue and on glass, and its table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.files import text_written_aside
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.prediction.label_blocks import Labels
from tissuebench.prediction.tissue import Ground

_HEADER = ("class", "pixels", "share", "area_mm2")


@dataclass(frozen=True, slots=True)
class ClassArea:
    """Area of one class on a slide.

    Attributes:
        pixels: predicted pixels that count.
        share: share of all pixels that count; 0 if there are none.
        area_mm2: square millimetres; None if the resolution is unknown.
    """

    name: str
    pixels: int
    share: float
    area_mm2: float | None


def count_pixels(labels: Labels, ground: Ground, n_classes: int) -> NDArray[np.int64]:
    """Return the predicted pixels of each class, (2, K): on tissue, and on glass.

    Args:
        labels: labels of the slide; ``IGNORE_LABEL`` is not counted.
        ground: its tissue and glass; pixels that were never scanned are not counted.
        n_classes: K.
    """
    counts = np.zeros((2, IGNORE_LABEL + 1), np.int64)
    for block in blocks(labels.height, labels.width):
        found = labels.read(*block)
        for count, there in zip(counts, ground.parts(*block), strict=True):
            count += np.bincount(found[there], minlength=IGNORE_LABEL + 1)
    return counts[:, :n_classes]


def class_areas(pixels: NDArray[np.int64], class_map: ClassMap, mpp: float | None) -> list[ClassArea]:
    """Return the area of every class, in the order of the class map.

    Args:
        pixels: (K,) pixels of each class.
        class_map: the classes.
        mpp: micrometres per pixel; None if unknown.
    """
    total = max(1, int(pixels.sum()))
    return [
        ClassArea(name, count, count / total, None if mpp is None else count * mpp**2 / 1e6)
        for name, count in zip(class_map.names, pixels.tolist(), strict=True)
    ]


def write_areas(path: Path, areas: Sequence[ClassArea]) -> None:
    """Write a CSV table with the columns class, pixels, share and area_mm2, the last one empty if unknown."""
    with text_written_aside(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        for area in areas:
            square = "" if area.area_mm2 is None else f"{area.area_mm2:.6g}"
            writer.writerow((area.name, area.pixels, f"{area.share:.6g}", square))
