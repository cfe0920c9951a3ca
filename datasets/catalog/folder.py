"""Dataset of the user's own slides: a folder with ``manifest.csv`` and ``dataset.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest import BadRow, ManifestRow, read_manifest
from tissuebench.datasets.readers import SLIDE_SUFFIXES
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.datasets.weak_labels import MIN_SHARE
from tissuebench.errors import DataError, unknown_name

_Channel = Annotated[int, Field(ge=0, le=255)]


class _DatasetFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    licence: str = "not stated"
    mpp: float | None = Field(None, gt=0, allow_inf_nan=False)
    tile_px: int = Field(256, ge=32)
    classes: dict[str, tuple[_Channel, _Channel, _Channel]]
    diagnoses: dict[str, tuple[str, ...]] = {}
    drawing_order: tuple[str, ...] | None = None
    costs: LabelCosts = LabelCosts()
    min_tag_share: float = Field(MIN_SHARE, ge=0, le=1, allow_inf_nan=False)
    white_background: WhiteBackground | None = None


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
    try:
        described = _DatasetFile.model_validate(yaml.safe_load(path.read_text()))
        classes = ClassMap(tuple(described.classes), tuple(described.classes.values()), described.diagnoses)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; see 'Your own slides' in the README") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: key {'.'.join(map(str, first['loc']))!r}: {first['msg']}") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from None
    unknown = [name for name in described.drawing_order or () if name not in described.classes]
    if unknown:
        raise DataError(f"{path}: key 'drawing_order': {unknown_name('class', unknown[0], described.classes)}")
    white = described.white_background
    if white is not None and white.label is not None and white.label not in described.classes:
        raise DataError(
            f"{path}: key 'white_background.label': {unknown_name('class', white.label, described.classes)}"
        )
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
        costs=described.costs,
        drawing_order=described.drawing_order or classes.names,
        min_tag_share=described.min_tag_share,
        white=white,
    )


def _rows(root: Path, classes: ClassMap) -> list[ManifestRow | BadRow]:
    """Return the manifest's rows, and a ``BadRow`` for each slide next to theirs that no row names."""
    path = root / "manifest.csv"
    rows = read_manifest(path, classes)
    known = {entry for row in rows if isinstance(row, ManifestRow) for entry in (row.image, row.annotation) if entry}
    named = {name for row in rows if isinstance(row, BadRow) for name in row.files}
    for folder in sorted({row.image.parent for row in rows if isinstance(row, ManifestRow) and row.image.is_file()}):
        for found in sorted(folder.iterdir()):
            if found.suffix.lower() in SLIDE_SUFFIXES and found not in known and found not in named:
                rows.append(BadRow(found.stem, f"{found}: no row of {path} names this file; add one or move it away"))
    return rows
