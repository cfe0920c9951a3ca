"""GlaS (Warwick-QU): glands of the colon, 165 H&E images of 16 patients (Sirinukunwattana et al. 2017).

The published parts leak: according to ``Grade.csv``, 11 of the 16 patients are in more than one of train, testA, testB.
Here patients are reassigned to parts; the published parts are the recipe ``glas_official``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from tissuebench.datasets.catalog._layout import find_below
from tissuebench.datasets.catalog.recipe import GIB, Download, Recipe
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest import ManifestRow
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASS_MAP = ClassMap(names=("background", "gland"), colors=((235, 235, 235), (80, 160, 90)))
LICENCE = "research purposes only, no commercial use; Sirinukunwattana et al., Med Image Anal 2017;35:489-502"
SOURCE = "https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/, unpacked as it is (Grade.csv, train_1.bmp, ...)"
MPP = 0.62005
"""Micrometres per pixel, according to the challenge page (20x, Zeiss MIRAX MIDI)."""
DOWNLOADS = (
    Download(
        "warwick_qu_dataset_released_2016_07_08.zip",
        url="https://warwick.ac.uk/fac/sci/dcs/research/tia/glascontest/download/"
        "warwick_qu_dataset_released_2016_07_08.zip",
        # Not published by Warwick: the checksum that several public loaders of this archive agree on.
        md5="495b2a9f3d694545fbec06673fb3f40f",
        unpacked_bytes=2 * GIB,
    ),
)
BY_HAND = f"if the server asks for a sign-in, get {DOWNLOADS[0].file_name} from {SOURCE.split(',')[0]} in a browser"

# 44 benign and 56 malignant images in train, 8 and 8 in val, 22 and 27 in test: of all assignments with two patients in
# val and five in test, the one whose counts of both grades are closest to 60:10:30; the first one at ties.
_PARTS = {"train": (1, 4, 5, 6, 7, 9, 11, 12, 14), "val": (3, 13), "test": (2, 8, 10, 15, 16)}
_PART_OF = {str(patient): part for part, patients in _PARTS.items() for patient in patients}
_COLUMNS = ("name", "patient ID")


def read_grades(folder: Path) -> list[tuple[str, str]]:
    """Return (image name, patient) for every row of ``Grade.csv``, checked against the image files.

    Raises:
        DataError: missing file or column, unusable or repeated name, or an image without a row or an annotation.
    """
    path = folder / "Grade.csv"
    try:
        # Published with blanks before the column names and, in some copies, with bare carriage returns as line ends.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        table = [[cell.strip() for cell in line] for line in csv.reader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); unpack the archive again") from None
    header = table[0] if table else []
    for name in _COLUMNS:
        if name not in header:
            raise DataError(f"{path}: column {name!r} is missing; unpack the archive again")
    at = [header.index(name) for name in _COLUMNS]
    found: dict[str, str] = {}
    for number, line in enumerate(table[1:], start=2):
        if not any(line):
            continue
        where = f"{path}: row {number}"
        if len(line) <= max(at):
            raise DataError(f"{where}: has {len(line)} cells and needs {max(at) + 1}; unpack the archive again")
        name = require_safe_id("name", line[at[0]], where)
        if name in found:
            raise DataError(f"{where}: name {name!r} appears twice; keep one")
        found[name] = require_safe_id("patient ID", line[at[1]], where)
    _require_files(folder, found)
    return list(found.items())


def _require_files(folder: Path, names: Iterable[str]) -> None:
    known = set(names)
    for name in sorted(known):
        for path in (folder / f"{name}.bmp", folder / f"{name}_anno.bmp"):
            if not path.is_file():
                raise DataError(f"{path}: no such file, but Grade.csv has {name!r}; unpack the archive again")
    for path in sorted(folder.glob("*.bmp")):
        if path.stem.removesuffix("_anno") not in known:
            raise DataError(f"{path}: has no row in Grade.csv; take it away or add its row")


def glas_rows(folder: Path, named: Iterable[tuple[str, str, str]]) -> list[ManifestRow]:
    """Return manifest rows for (image name, unit of the split, part)."""
    return [
        ManifestRow(name, unit, folder / f"{name}.bmp", folder / f"{name}_anno.bmp", split=part, mpp=MPP)
        for name, unit, part in named
    ]


def _rows(root: Path) -> list[ManifestRow]:
    folder = find_below(root, "Grade.csv", "GlaS")
    named = []
    for name, patient in read_grades(folder):
        if patient not in _PART_OF:
            raise DataError(f"{folder / 'Grade.csv'}: patient {patient!r} is not one of GlaS's 1 to 16")
        named.append((name, patient, _PART_OF[patient]))
    return glas_rows(folder, named)


def recipe(_data_root: Path | None) -> Recipe:
    """Return the recipe; no class depends on the grade (benign, malignant), so there are no diagnoses."""
    return Recipe(
        name="glas",
        version=1,
        title="GlaS, glands of the colon, patient-disjoint",
        licence=LICENCE,
        source=SOURCE,
        class_map=CLASS_MAP,
        tile_px=256,
        mpp=MPP,
        rows=_rows,
        split_name="glas-patient",
        instance_class="gland",
        downloads=DOWNLOADS,
        by_hand=BY_HAND,
    )
