"""The manifest CSV: one row a slide, the same for every way into the store."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from tissuebench.datasets.files import require_safe_id
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError, unknown_name

_REQUIRED = ("slide_id", "patient_id", "image", "annotation")
_OPTIONAL = ("diagnosis", "split", "mpp")
PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One slide of a manifest; paths are absolute, ``mpp`` overrides the file's, ``split`` may be empty."""

    slide_id: str
    patient_id: str
    image: Path
    annotation: Path
    diagnosis: tuple[str, ...] = ()
    split: str = ""
    mpp: float | None = None


def read_manifest(path: Path, class_map: ClassMap) -> list[ManifestRow]:
    """Read and check a manifest.

    Columns: slide_id, patient_id, image, annotation (paths relative to the manifest); optional diagnosis (several
    with ';'), split (train, val, test), mpp.

    Raises:
        DataError: missing file or column, unknown column, unknown diagnosis, unusable value; names file and row.
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


def _rows(path: Path, reader: csv.DictReader[str], class_map: ClassMap) -> list[ManifestRow]:
    columns = reader.fieldnames or []
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; needed: {', '.join(_REQUIRED)}")
    for name in columns:
        if name not in _REQUIRED + _OPTIONAL:
            raise DataError(f"{path}: {unknown_name('column', name, _REQUIRED + _OPTIONAL)}")
    rows = [_parse(path, number, row, class_map) for number, row in enumerate(reader, start=2)]
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows


def _parse(path: Path, number: int, row: dict[str, str], class_map: ClassMap) -> ManifestRow:
    where = f"{path}: row {number}"
    for name in _REQUIRED:
        if not (row[name] or "").strip():
            raise DataError(f"{where}: {name} is empty")
    diagnosis = tuple(part.strip() for part in (row.get("diagnosis") or "").split(";") if part.strip())
    for name in diagnosis:
        if name not in class_map.diagnoses:
            raise DataError(f"{where}: {unknown_name('diagnosis', name, class_map.diagnoses)}")
    split = (row.get("split") or "").strip()
    if split and split not in PARTS:
        raise DataError(f"{where}: {unknown_name('split', split, PARTS)}")
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
        annotation=path.parent / row["annotation"].strip(),
        diagnosis=diagnosis,
        split=split,
        mpp=mpp,
    )
