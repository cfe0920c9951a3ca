"""BCSS-WSSS: breast cancer of TCGA, 31,826 H&E patches of 224 px, tags for training, masks for testing."""

from __future__ import annotations

from pathlib import Path

from tissuebench.datasets.catalog._patches import IGNORE_INDEX, PATCH_PX, PatchLayout
from tissuebench.datasets.catalog._tcga import tcga_patient
from tissuebench.datasets.catalog.recipe import GIB, Download, Recipe
from tissuebench.datasets.types import ClassMap

CLASS_MAP = ClassMap(
    names=("tumour", "stroma", "lymphocytic infiltrate", "necrosis"),
    colors=((255, 0, 0), (0, 255, 0), (0, 0, 255), (153, 0, 255)),
)
_FOLDER = "https://drive.google.com/drive/folders/1iS2Z0DsbACqGp7m6VDJbAcgzeXNEFr77"
_MPP = 0.25  # every file name says MPP-0.2500, the resolution of the BCSS regions that the patches were cut from
_LAYOUT = PatchLayout("BCSS-WSSS", CLASS_MAP, tcga_patient, mpp=_MPP)


def recipe(_data_root: Path | None) -> Recipe:
    """Return the recipe."""
    return Recipe(
        name="bcss_wsss",
        version=1,
        title="BCSS-WSSS, breast cancer, patch tags for training",
        licence="none stated for the patches, CC0 for the BCSS regions they come from; "
        "Han et al., Med Image Anal 2022;80:102487 and Amgad et al., Bioinformatics 2019;35(18):3461-3467",
        source=f"{_FOLDER}, unpacked as it is (train, val, test)",
        class_map=CLASS_MAP,
        tile_px=PATCH_PX,
        mpp=_MPP,
        rows=_LAYOUT.rows,
        notes=_LAYOUT.notes,
        ignore_index=IGNORE_INDEX,
        downloads=(Download("BCSS-WSSS.zip", unpacked_bytes=20 * GIB),),
        by_hand=f"download the folder {_FOLDER} (a shared drive) in a browser, as one archive",
    )
