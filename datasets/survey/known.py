"""A group's own table of its slides, with patients, diagnoses and parts, joined by the names of the slides."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tissuebench.datasets.manifest import read_table
from tissuebench.datasets.survey.pairing import slide_stem
from tissuebench.errors import DataError

_SLIDE = ("slide_id", "slide", "image", "file", "filename", "file_name", "name")
_MEANINGS = {
    "patient_id": ("patient_id", "patient", "case_id", "case"),
    "diagnosis": ("diagnosis", "diagnoses"),
    "split": ("split", "part"),
    "mpp": ("mpp",),
}


@dataclass(frozen=True, slots=True)
class Known:
    """Cells of the manifest by slide, and the slides of the table that are not in the folder."""

    of_slide: dict[Path, dict[str, str]]
    not_found: tuple[str, ...]


def read_known(path: Path, slides: Sequence[Path]) -> Known:
    """Read a table with a row for each slide: a CSV with its name or file, and any of patient, diagnosis, split, mpp.

    Columns are recognised by these names in any capitals; others are ignored. A slide is named by its file, with or
    without folder and suffix.

    Raises:
        DataError: no such file, not a table, no column that names the slides or none that says anything, or a slide
            with two rows.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    columns = [name for names in _MEANINGS.values() for name in names]
    table = read_table(path, (), (*_SLIDE, *columns), ignore_others=True)
    named = next((name for name in _SLIDE if name in table.columns), None)
    meant = {key: name for key, names in _MEANINGS.items() if (name := _first(names, table.columns))}
    if named is None:
        raise DataError(f"{path}: no column names the slides; call it 'slide'")
    if not meant:
        raise DataError(f"{path}: no column of patients, diagnoses or parts; call them {', '.join(_MEANINGS)}")
    by_name: dict[str, list[Path]] = {}
    for slide in slides:
        for name in {_key(slide_stem(slide)), _key(slide.name)}:
            by_name.setdefault(name, []).append(slide)
    known: dict[Path, dict[str, str]] = {}
    missing = []
    for line in table.lines:
        said = line.cells[named]
        found = by_name.get(_key(PurePosixPath(said.replace("\\", "/")).name), [])
        if line.problem:
            raise DataError(f"{path}: row {line.number}: {line.problem}")
        if len(found) > 1:
            raise DataError(f"{path}: row {line.number}: {said!r} is the name of {found[0]} and of {found[1]}")
        if not found:
            missing.append(said)
        elif found[0] in known:
            raise DataError(f"{path}: row {line.number}: slide {said!r} has a row already; keep one")
        else:
            known[found[0]] = {key: line.cells[name] for key, name in meant.items()}
    return Known(known, tuple(missing))


def _first(names: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
