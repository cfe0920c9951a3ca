"""Slides that an ingest left out, its notes, and the folder its files came from, in files next to the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tissuebench.common.hashing import Json
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.manifest import BadRow

_OUTCOME, _ORIGIN = "quarantine.json", "origin.json"


def write_outcome(folder: Path, bad: Sequence[BadRow], notes: Sequence[str]) -> None:
    """Write the slides that were left out, each with its reason, and notes on the dataset; no file if there are none.

    Args:
        folder: folder of the dataset.
        bad: slides that could not be used.
        notes: what concerns more than one slide, one line each.
    """
    if bad or notes:
        listed = sorted(bad, key=lambda row: (row.slide_id, row.reason))
        document: dict[str, Json] = {"slides": [[row.slide_id, row.reason] for row in listed], "notes": list(notes)}
        write_hashed_json(folder / _OUTCOME, document)
    else:
        (folder / _OUTCOME).unlink(missing_ok=True)


def read_outcome(folder: Path) -> tuple[tuple[BadRow, ...], tuple[str, ...]]:
    """Return the slides that were left out and the notes on the dataset.

    Raises:
        DataError: the file was edited.
    """
    if not (folder / _OUTCOME).is_file():
        return (), ()
    document, _ = read_hashed_json(folder / _OUTCOME)
    bad = tuple(BadRow(slide_id, reason) for slide_id, reason in cast("list[list[str]]", document["slides"]))
    return bad, tuple(cast("list[str]", document.get("notes", [])))


def remember_origin(folder: Path, data_root: Path) -> None:
    """Write the folder that the files of a dataset were read from, so that it need not be named again."""
    origin = str(data_root.resolve())
    if not (folder / _ORIGIN).is_file() or read_hashed_json(folder / _ORIGIN)[0].get("data_root") != origin:
        write_hashed_json(folder / _ORIGIN, {"data_root": origin})


def remembered_origin(folder: Path) -> Path | None:
    """Return the folder that the files of a dataset were last read from; None if that is not known.

    Raises:
        DataError: the file was edited.
    """
    if not (folder / _ORIGIN).is_file():
        return None
    return Path(str(read_hashed_json(folder / _ORIGIN)[0]["data_root"]))
