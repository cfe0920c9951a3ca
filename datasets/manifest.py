"""Manifest CSV with one row per slide, the common input of every ingest."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.types import FRAMES, ClassMap, FrameName
from tissuebench.errors import DataError, unknown_name

_REQUIRED = ("slide_id", "patient_id", "image")
_OPTIONAL = ("annotation", "diagnosis", "tags", "split", "mpp", "reader", "series", "frame")
PARTS = ("train", "val", "test")


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


def read_manifest(path: Path, class_map: ClassMap) -> list[ManifestRow | BadRow]:
    """Read and check a manifest; an unusable row is returned as a ``BadRow`` with its reason.

    Columns: slide_id, patient_id, image; optional annotation (empty for an unannotated slide), diagnosis and tags
    (several separated by ';'), split (train, val, test), mpp, reader. Paths are relative to the manifest.

    Raises:
        DataError: the file as a whole is missing or unreadable, or a column is missing or unknown.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; see 'Your own slides' in the README")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin a CSV with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); save it as 'CSV UTF-8'") from None
    try:
        return _rows(path, csv.DictReader(io.StringIO(text, newline="")), class_map)
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); save it as 'CSV UTF-8'") from None


def _rows(path: Path, reader: csv.DictReader[str], class_map: ClassMap) -> list[ManifestRow | BadRow]:
    columns = reader.fieldnames or []
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; needed: {', '.join(_REQUIRED)}")
    for name in columns:
        if name not in _REQUIRED + _OPTIONAL:
            raise DataError(f"{path}: {unknown_name('column', name, _REQUIRED + _OPTIONAL)}")
    rows: list[ManifestRow | BadRow] = []
    for number, row in enumerate(reader, start=2):
        try:
            rows.append(_parse(path, f"{path}: row {number}", row, class_map))
        except DataError as error:
            named = (row["image"], row.get("annotation"))
            files = tuple(path.parent / name.strip() for name in named if name and name.strip())
            rows.append(BadRow((row["slide_id"] or "").strip(), str(error), files))
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows


def _parse(path: Path, where: str, row: dict[str, str], class_map: ClassMap) -> ManifestRow:
    for name in _REQUIRED:
        if not (row[name] or "").strip():
            raise DataError(f"{where}: {name} is empty")
    diagnosis = _listed(row, "diagnosis")
    for name in diagnosis:
        if name not in class_map.diagnoses:
            raise DataError(f"{where}: {unknown_name('diagnosis', name, class_map.diagnoses)}")
    tags = _listed(row, "tags")
    for name in tags:
        if name not in class_map.names:
            raise DataError(f"{where}: {unknown_name('class', name, class_map.names)} (column 'tags')")
    annotation = (row.get("annotation") or "").strip()
    split = (row.get("split") or "").strip()
    if split and split not in PARTS:
        raise DataError(f"{where}: {unknown_name('split', split, PARTS)}")
    frame = (row.get("frame") or "").strip()
    if frame and frame not in FRAMES:
        raise DataError(f"{where}: {unknown_name('frame', frame, FRAMES)}")
    mpp_text = (row.get("mpp") or "").strip()
    try:
        mpp = float(mpp_text) if mpp_text else None
    except ValueError:
        raise DataError(f"{where}: mpp {mpp_text!r} is not a number") from None
    if mpp is not None and not 0 < mpp < math.inf:
        raise DataError(f"{where}: mpp {mpp_text!r} is not a resolution; micrometres per pixel are above 0")
    return ManifestRow(
        slide_id=require_safe_id("slide_id", row["slide_id"].strip(), where),
        patient_id=require_safe_id("patient_id", row["patient_id"].strip(), where),
        image=path.parent / row["image"].strip(),
        annotation=path.parent / annotation if annotation else None,
        diagnosis=diagnosis,
        split=split,
        mpp=mpp,
        tags=tags or None,
        reader=(row.get("reader") or "").strip(),
        series=(row.get("series") or "").strip(),
        frame=frame or None,
    )


def _listed(row: dict[str, str], column: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in (row.get(column) or "").split(";") if part.strip())
