"""One's own slides: a folder with ``manifest.csv`` and ``dataset.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.files import require_safe_id
from tissuebench.datasets.manifest import read_manifest
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.errors import DataError

_Channel = Annotated[int, Field(ge=0, le=255)]


class _DatasetFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    licence: str = "not stated"
    mpp: float | None = Field(None, gt=0, allow_inf_nan=False)
    tile_px: int = Field(256, ge=32)
    classes: dict[str, tuple[_Channel, _Channel, _Channel]]
    diagnoses: dict[str, tuple[str, ...]] = {}
    costs: LabelCosts = LabelCosts()


def recipe(data_root: Path | None) -> Recipe:
    """Read ``dataset.yaml``.

    Raises:
        DataError: no data root, no or a broken ``dataset.yaml``; names the key.
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
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from None
    return Recipe(
        name=require_safe_id("name", described.name, str(path)),
        version=1,
        title=f"slides of {data_root.name}",
        licence=described.licence,
        source="a folder of one's own",
        class_map=classes,
        tile_px=described.tile_px,
        mpp=described.mpp,
        rows=lambda root: read_manifest(root / "manifest.csv", classes),
        costs=described.costs,
    )
