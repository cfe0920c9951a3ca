"""What a recipe says of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tissuebench.datasets.manifest import ManifestRow
from tissuebench.datasets.types import ClassMap, LabelCosts


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a dataset gets into a store.

    Attributes:
        name: folder name below ``data/`` and the name in every result.
        version: raised when the same source would give another store.
        title, licence, source: shown to people; ``source`` says where the files come from.
        class_map: classes and diagnoses.
        tile_px: edge of a training tile at ``mpp``.
        mpp: resolution of the store; None keeps the pixels as they are.
        rows: reads the source folder's slides.
        generate: writes the source folder, for embedded datasets.
        costs: what a label of this dataset is assumed to cost.
    """

    name: str
    version: int
    title: str
    licence: str
    source: str
    class_map: ClassMap
    tile_px: int
    mpp: float | None
    rows: Callable[[Path], list[ManifestRow]]
    generate: Callable[[Path, Callable[[int, int], None]], None] | None = None
    costs: LabelCosts = field(default_factory=LabelCosts)
