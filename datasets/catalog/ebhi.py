"""EBHI-Seg: H&E endoscopic biopsies of the colon, with a diagnosis and a gland mask per image (Shi et al. 2023)."""

from __future__ import annotations

import csv
from pathlib import Path

from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest import ManifestRow
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError, unknown_name

_KINDS = ("Normal", "Polyp", "Low-grade IN", "High-grade IN", "Adenocarcinoma", "Serrated adenoma")

CLASS_MAP = ClassMap(
    names=("background", *_KINDS),
    colors=(
        (235, 235, 235),
        (80, 160, 90),
        (70, 130, 200),
        (240, 200, 60),
        (240, 130, 30),
        (200, 40, 40),
        (140, 80, 180),
    ),
    diagnoses={kind: (kind,) for kind in _KINDS},
)


def _kind(name: str) -> str:
    if name not in _KINDS:
        raise ValueError(unknown_name("class_name", name, _KINDS))
    return name


def _rows(root: Path) -> list[ManifestRow]:
    path = root / "manifest.csv"
    if not path.is_file():
        raise DataError(f"{path}: no such file; DATA_ROOT must be the folder of EBHI-Seg with manifest.csv")
    rows = []
    with path.open(newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), start=2):
            try:
                rows.append(
                    ManifestRow(
                        slide_id=require_safe_id("image name", Path(row["image"]).stem, f"{path}: row {number}"),
                        patient_id=require_safe_id("case_id", row["case_id"], f"{path}: row {number}"),
                        image=root / row["image"],
                        annotation=root / row["mask"],
                        diagnosis=(_kind(row["class_name"]),),
                        split=row["split"],
                    )
                )
            except (KeyError, ValueError) as error:
                raise DataError(f"{path}: row {number}: {error}") from None
    return rows


def recipe(_data_root: Path | None) -> Recipe:
    """Return the recipe. The resolution is not published, so images keep their pixels (224 x 224)."""
    return Recipe(
        name="ebhi",
        version=1,
        title="EBHI-Seg, colorectal biopsies, six kinds of glands",
        licence="CC BY 4.0, Shi et al., Front Med 2023;10:1114673",
        source="figshare record 21540159, with a manifest.csv of image, mask, case_id, class_name, split",
        class_map=CLASS_MAP,
        tile_px=224,
        mpp=None,
        rows=_rows,
        min_tag_share=0.2,
    )
