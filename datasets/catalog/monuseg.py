"""MoNuSeg 2018: nuclei in H&E of nine organs, 37 training and 14 test images of 1000 x 1000 px (Kumar et al. 2020)."""

from __future__ import annotations

from pathlib import Path

from tissuebench.datasets.catalog._layout import find_below
from tissuebench.datasets.catalog._tcga import tcga_patient
from tissuebench.datasets.catalog.recipe import GIB, Download, Recipe
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest import ManifestRow
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASS_MAP = ClassMap(names=("background", "nucleus"), colors=((235, 200, 220), (60, 70, 160)))
_MPP = 0.25  # 40x of TCGA; nominal, the images do not state it
_PAGE = "https://monuseg.grand-challenge.org/Data/"
_TRAIN, _TEST = "MoNuSeg 2018 Training Data", "MoNuSegTestData"


def _rows(root: Path) -> list[ManifestRow]:
    train = find_below(root, f"{_TRAIN}/Tissue Images", "MoNuSeg 2018 training data") / _TRAIN
    test = find_below(root, _TEST, "MoNuSeg 2018 test data") / _TEST
    inner = test / _TEST  # the archive contains a folder of its own name
    test = inner if inner.is_dir() else test
    return [
        *_part(train / "Tissue Images", train / "Annotations", "train"),
        *_part(test, test, "test"),
    ]


def _part(images: Path, annotations: Path, part: str) -> list[ManifestRow]:
    rows = []
    for image in sorted(images.glob("*.tif")):
        name = require_safe_id("image name", image.stem, str(image))
        annotation = annotations / f"{name}.xml"
        if not annotation.is_file():
            raise DataError(f"{annotation}: no such file, but {image.name} is there; unpack the archive again")
        rows.append(ManifestRow(name, tcga_patient(name, str(image)), image, annotation, split=part, mpp=_MPP))
    lonely = {path.stem for path in annotations.glob("*.xml")} - {row.slide_id for row in rows}
    if lonely:
        raise DataError(f"{annotations / (min(lonely) + '.xml')}: has no image in {images}; unpack the archive again")
    if not rows:
        raise DataError(f"{images}: holds no .tif; unpack the archive again")
    return rows


def recipe(_data_root: Path | None) -> Recipe:
    """Return the recipe: the published parts, nothing in val. Outlines are Aperio XML; every region is a nucleus."""
    return Recipe(
        name="monuseg",
        version=1,
        title="MoNuSeg 2018, nuclei of nine organs",
        licence="CC BY-NC-SA 4.0, Kumar et al., IEEE Trans Med Imaging 2020;39(5):1380-1391",
        source=f"{_PAGE}, both archives unpacked as they are",
        class_map=CLASS_MAP,
        tile_px=256,
        mpp=_MPP,
        rows=_rows,
        region_class="nucleus",
        background="background",
        downloads=tuple(Download(f"{name}.zip", unpacked_bytes=2 * GIB) for name in (_TRAIN, _TEST)),
        by_hand=f"download the training and the test data of {_PAGE} (a shared drive) in a browser",
    )
