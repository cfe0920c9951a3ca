"""GlaS in its published parts, for comparison with published numbers; they leak: 11 of 16 patients are in several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tissuebench.datasets.catalog import glas
from tissuebench.datasets.catalog._layout import find_below
from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.manifest import ManifestRow
from tissuebench.errors import DataError

_PART_OF = {"train": "train", "testA": "test", "testB": "test"}


def _rows(root: Path) -> list[ManifestRow]:
    folder = find_below(root, "Grade.csv", "GlaS")
    named = []
    for name, _ in glas.read_grades(folder):
        part = _PART_OF.get(name.split("_")[0])
        if part is None:
            raise DataError(f"{folder / 'Grade.csv'}: name {name!r} begins with none of {', '.join(_PART_OF)}")
        named.append((name, name, part))  # a split by patient would be refused, so the image is the unit
    return glas.glas_rows(folder, named)


def recipe(data_root: Path | None) -> Recipe:
    """Return the recipe: the files of ``glas``, testA and testB as test, nothing in val, the image as the unit."""
    return replace(
        glas.recipe(data_root),
        name="glas_official",
        title="GlaS, glands of the colon, published parts (leaky: patients are in train and test)",
        source=f"{glas.SOURCE}; the raw folder of 'glas' serves as well",
        rows=_rows,
        split_name="glas-official-leaky",
    )
