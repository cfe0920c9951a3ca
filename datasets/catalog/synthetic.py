"""Synthetic dataset, the embedded default: procedural H&E cores of two tumour kinds that never share a patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.manifest import read_manifest
from tissuebench.datasets.synthetic import CLASS_NAMES, GENERATOR_VERSION, SyntheticConfig, write_synthetic
from tissuebench.datasets.types import ClassMap

CLASS_MAP = ClassMap(
    names=CLASS_NAMES,
    colors=((225, 225, 225), (240, 150, 180), (80, 160, 90), (60, 70, 160), (200, 40, 40), (240, 140, 20)),
    diagnoses={"tumour A": ("tumour_a",), "tumour B": ("tumour_b",)},
)


def _generate(folder: Path, progress: Callable[[int, int], None]) -> None:
    write_synthetic(folder, SyntheticConfig(), progress)


def recipe(_data_root: Path | None) -> Recipe:
    """Return the recipe; it needs no files."""
    return Recipe(
        name="synthetic",
        version=int(GENERATOR_VERSION),
        title="procedural H&E tissue cores, two tumour kinds",
        licence="Apache-2.0 (drawn by this project)",
        source="drawn on this machine",
        class_map=CLASS_MAP,
        tile_px=128,
        mpp=1.0,
        rows=lambda root: read_manifest(root / "manifest.csv", CLASS_MAP),
        generate=_generate,
        min_tag_share=0.1,
    )
