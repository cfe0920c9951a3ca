"""LUAD-HistoSeg: lung adenocarcinoma, 17,285 H&E patches of 224 px, tags for training, masks for testing."""

from __future__ import annotations

import re
from pathlib import Path

from tissuebench.datasets.catalog._patches import IGNORE_INDEX, PATCH_PX, PatchLayout
from tissuebench.datasets.catalog.recipe import GIB, Download, Recipe
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASS_MAP = ClassMap(
    names=("tumour epithelium", "necrosis", "lymphocytes", "tumour-associated stroma"),
    colors=((205, 51, 51), (0, 255, 0), (65, 105, 225), (255, 165, 0)),
)
_FOLDER = "https://drive.google.com/drive/folders/1E3Yei3Or3xJXukHIybZAgochxfn6FJpr"
_NAME = re.compile(r"(\d+)-\d+-\d+")  # patient-x-y, then for training patches -[a b c d]


def _patient(stem: str, where: str) -> str:
    found = _NAME.match(stem)
    if found is None:
        raise DataError(f"{where}: its name does not begin with patient-x-y, as in 1031280-2300-27920; restore it")
    return found[1]


_LAYOUT = PatchLayout("LUAD-HistoSeg", CLASS_MAP, _patient, mpp=None)


def recipe(_data_root: Path | None) -> Recipe:
    """Return the recipe. The magnification is published (10x), the resolution is not, so images keep their pixels."""
    return Recipe(
        name="luad_histoseg",
        version=1,
        title="LUAD-HistoSeg, lung adenocarcinoma, patch tags for training",
        licence="none stated by its authors; Han et al., Med Image Anal 2022;80:102487",
        source=f"{_FOLDER}, unpacked as it is (train, val, test)",
        class_map=CLASS_MAP,
        tile_px=PATCH_PX,
        mpp=None,
        rows=_LAYOUT.rows,
        notes=_LAYOUT.notes,
        ignore_index=IGNORE_INDEX,
        white=WhiteBackground(),  # the pixels that index 4 excludes
        downloads=(Download("LUAD-HistoSeg.zip", unpacked_bytes=20 * GIB),),
        by_hand=f"download the folder {_FOLDER} (a shared drive) in a browser, as one archive",
    )
