"""Rows of a manifest: cells turned into a slide, or into the reason that it cannot be used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tissuebench.common.text_files import known_as
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest.files import file_named
from tissuebench.datasets.types import FRAMES, ClassMap, FrameName
from tissuebench.errors import DataError, unknown_name

REQUIRED = ("slide_id", "patient_id", "image")
OPTIONAL = ("annotation", "diagnosis", "tags", "split", "mpp", "reader", "series", "frame")
PARTS = ("train", "val", "test")
_NOTHING = ("na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One slide of a manifest; paths are absolute, ``mpp`` overrides the file's, ``split`` may be empty.

    ``annotation`` is None for an unannotated slide. ``tags`` are the classes present, if they come with the data and
    not from a mask; None if not stated, empty if no class is present. ``reader`` forces a particular reader; if empty
    it is chosen by the file's suffix. ``series`` is the image of a file that holds several; if empty, the largest
    brightfield pyramid. ``frame`` overrides the dataset's ``frame``; see ``Recipe``.
    """

    slide_id: str
    patient_id: str
    image: Path
    annotation: Path | None
    diagnosis: tuple[str, ...] = ()
    split: str = ""
    mpp: float | None = None
    tags: tuple[str, ...] | None = None
    reader: str = ""
    series: str = ""
    frame: FrameName | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """Slide that cannot be used, with a one-line reason.

    ``slide_id`` is copied from the source, even if it is not a valid file name; ``files`` are the files that the row
    names.
    """

    slide_id: str
    reason: str
    files: tuple[Path, ...] = ()


def says_nothing(cell: str) -> bool:
    """Return whether a cell is empty or holds a common sign for a missing value (NA, n/a, NaN, -, ...)."""
    return not cell or cell.casefold() in _NOTHING


def without_missing(cells: Mapping[str, str], folder: Path, class_map: ClassMap) -> tuple[dict[str, str], list[str]]:
    """Return the cells with signs for a missing value emptied, and the columns where there was one.

    Only optional columns may lack a value. A sign that is a diagnosis, a class or a file of the data set is kept.
    """
    meant = {*class_map.diagnoses, *class_map.names}
    emptied = [
        column
        for column, cell in cells.items()
        if cell and column in OPTIONAL and says_nothing(cell) and cell not in meant
        if not (column == "annotation" and (folder / cell).exists())
    ]
    return {column: "" if column in emptied else cell for column, cell in cells.items()}, emptied


def parse_row(folder: Path, where: str, cells: Mapping[str, str], class_map: ClassMap) -> ManifestRow:
    """Return the slide of a row.

    Args:
        folder: the manifest's folder, to which paths are relative.
        where: file and row, for messages.
        cells: cells by column; absent columns are empty.
        class_map: allowed diagnoses and tags.

    Raises:
        DataError: a required cell is empty, or a value cannot be used.
    """
    for name in REQUIRED:
        if says_nothing(cells.get(name, "")):
            said = f" ({cells[name]!r} is no value)" if cells.get(name) else ""
            raise DataError(f"{where}: {name} is empty{said}")
    diagnosis = _listed(where, cells, "diagnosis", "diagnosis", class_map.diagnoses)
    tags = _listed(where, cells, "class", "tags", class_map.names)
    annotation = cells.get("annotation", "")
    frame = _one_of(where, cells, "frame", FRAMES)
    return ManifestRow(
        slide_id=_id(where, cells, "slide_id"),
        patient_id=_id(where, cells, "patient_id"),
        image=file_named(folder, cells["image"], f"{where}: image"),
        annotation=file_named(folder, annotation, f"{where}: annotation") if annotation else None,
        diagnosis=diagnosis,
        split=_one_of(where, cells, "split", PARTS),
        mpp=_mpp(where, cells.get("mpp", "")),
        tags=tags or None,
        reader=cells.get("reader", "").casefold(),
        series=cells.get("series", ""),
        frame=next((known for known in FRAMES if known == frame), None),
    )


def bad_row(folder: Path, cells: Mapping[str, str], reason: str) -> BadRow:
    """Return a row that cannot be used, with the files that it names."""
    named = (cells.get("image", ""), cells.get("annotation", ""))
    return BadRow(cells.get("slide_id", ""), reason, tuple(folder / name for name in named if name))


def _id(where: str, cells: Mapping[str, str], column: str) -> str:
    if _ROUNDED.fullmatch(cells[column]):
        raise DataError(
            f"{where}: {column} {cells[column]!r} looks like a number that a spreadsheet shortened; format the "
            "column as text and enter the id in full"
        )
    return require_safe_id(column, cells[column], where)


def _one_of(where: str, cells: Mapping[str, str], column: str, known: Iterable[str]) -> str:
    cell = cells.get(column, "")
    if not cell:
        return ""
    found = known_as(cell, known)
    if found is None:
        raise DataError(f"{where}: {unknown_name(column, cell, known)}")
    return found


def _listed(where: str, cells: Mapping[str, str], kind: str, column: str, known: Iterable[str]) -> tuple[str, ...]:
    found = []
    for name in (part.strip() for part in cells.get(column, "").split(";")):
        if not name:
            continue
        meant = known_as(name, known)
        if meant is None:
            place = f" (column {column!r})" if column != kind else ""
            raise DataError(f"{where}: {unknown_name(kind, name, known)}{place}")
        found.append(meant)
    return tuple(dict.fromkeys(found))


def _mpp(where: str, cell: str) -> float | None:
    if not cell:
        return None
    if not _NUMBER.fullmatch(cell):
        if cell.casefold() in ("inf", "-inf", "infinity"):
            raise DataError(f"{where}: mpp {cell!r} is not a resolution; micrometres per pixel are above 0")
        raise DataError(f"{where}: mpp {cell!r} is not a number")
    mpp = float(cell.replace(",", "."))  # with a decimal comma, as spreadsheets of many countries write it
    if not 0 < mpp < math.inf:
        raise DataError(f"{where}: mpp {cell!r} is not a resolution; micrometres per pixel are above 0")
    return mpp
