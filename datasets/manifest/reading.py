"""Reading of a manifest as a whole: its rows, and what is worth a note about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tissuebench.datasets.manifest.patients import patient_notes
from tissuebench.datasets.manifest.rows import (
    OPTIONAL,
    REQUIRED,
    BadRow,
    ManifestRow,
    bad_row,
    parse_row,
    without_missing,
)
from tissuebench.datasets.manifest.table import read_table
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError


def read_manifest(path: Path, class_map: ClassMap) -> list[ManifestRow | BadRow]:
    """Read and check a manifest; an unusable row is returned as a ``BadRow`` with its reason.

    Columns: slide_id, patient_id, image; optional annotation (empty for an unannotated slide), diagnosis and tags
    (several separated by ';'), split (train, val, test), mpp, reader, series, frame. Paths are relative to the
    manifest.

    Raises:
        DataError: the file as a whole is missing or unreadable, a column is missing or unknown, or two patient ids that
            may be one patient are in different parts.
    """
    return _read(path, class_map)[0]


def manifest_notes(path: Path, class_map: ClassMap) -> tuple[str, ...]:
    """Return what a reader of the manifest should know, one line each: missing values, ids that look alike.

    Raises:
        DataError: as ``read_manifest``.
    """
    return _read(path, class_map)[1]


def _read(path: Path, class_map: ClassMap) -> tuple[list[ManifestRow | BadRow], tuple[str, ...]]:
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; see 'Your own slides' in the README")
    rows: list[ManifestRow | BadRow] = []
    emptied: Counter[tuple[str, str]] = Counter()
    for line in read_table(path, REQUIRED, OPTIONAL).lines:
        where = f"{path}: row {line.number}"
        cells, missing = without_missing(line.cells, path.parent, class_map)
        try:
            if line.problem:
                raise DataError(f"{where}: {line.problem}")
            rows.append(parse_row(path.parent, where, cells, class_map))
            emptied.update((column, line.cells[column]) for column in missing)
        except DataError as error:
            rows.append(bad_row(path.parent, cells, str(error)))
    if not rows:
        raise DataError(f"{path}: has no rows")
    good = [row for row in rows if isinstance(row, ManifestRow)]
    return rows, (*_missing_notes(path, emptied), *patient_notes(path, good))


def _missing_notes(path: Path, emptied: Counter[tuple[str, str]]) -> Sequence[str]:
    return [
        f"{path}: {cell!r} in column {column!r} means an empty cell ({count} row{'s' if count > 1 else ''})"
        for (column, cell), count in emptied.items()
    ]
