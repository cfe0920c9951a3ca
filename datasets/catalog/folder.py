"""Dataset of the user's own slides: a folder with ``manifest.csv`` and ``dataset.yaml``."""

from __future__ import annotations

from pathlib import Path

from tissuebench.datasets.catalog._beside import beside
from tissuebench.datasets.catalog._dataset_file import read_dataset_file
from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest import BadRow, ManifestRow, manifest_notes, read_manifest
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

_MANIFEST = "manifest.csv"


def recipe(data_root: Path | None) -> Recipe:
    """Return the recipe described by ``dataset.yaml`` in the data root.

    Raises:
        DataError: no data root, or ``dataset.yaml`` is missing or invalid; names the key.
    """
    if data_root is None:
        raise DataError(
            "dataset 'folder' needs DATA_ROOT=… (--data-root …): a folder with manifest.csv and dataset.yaml"
        )
    path = data_root / "dataset.yaml"
    described = read_dataset_file(path)
    try:
        classes = described.class_map()
    except ValueError as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from None
    return Recipe(
        name=require_safe_id("name", described.name, str(path)),
        version=1,
        title=f"slides of {data_root.name}",
        licence=described.licence,
        source="your own slides",
        class_map=classes,
        tile_px=described.tile_px,
        mpp=described.mpp,
        rows=lambda root: _rows(root, classes),
        notes=lambda root: _notes(root, classes),
        costs=described.costs,
        drawing_order=described.drawing_order or classes.names,
        frame=described.frame,
        class_names=described.class_names,
        mask_values=described.mask_values,
        min_tag_share=described.min_tag_share,
        white=described.white_background,
    )


def _rows(root: Path, classes: ClassMap) -> list[ManifestRow | BadRow]:
    """Return the manifest's rows, and a ``BadRow`` for each slide next to theirs that no row names."""
    path = root / _MANIFEST
    rows = read_manifest(path, classes)
    unnamed = [
        BadRow(found.stem, f"{found}: no row of {path} names this file; add one or move it away")
        for found in beside(rows).slides
    ]
    return [*rows, *unnamed]


def _notes(root: Path, classes: ClassMap) -> tuple[str, ...]:
    """Return notes on the manifest, and one on the files next to the slides that are none."""
    path = root / _MANIFEST
    notes = manifest_notes(path, classes)
    others = beside(read_manifest(path, classes)).others
    if not others:
        return notes
    named = ", ".join(one.name for one in others[:3]) + (", ..." if len(others) > 3 else "")
    files = "1 file that is no slide lies" if len(others) == 1 else f"{len(others)} files that are no slides lie"
    return (*notes, f"{root}: {files} next to the slides ({named})")
