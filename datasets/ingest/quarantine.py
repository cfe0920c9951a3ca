"""List of slides that could not be ingested, each with its reason, in a file next to the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.manifest import BadRow

_FILE = "quarantine.json"


def write_quarantine(folder: Path, bad: Sequence[BadRow]) -> None:
    """Write the list; remove the file if the list is empty."""
    if bad:
        listed = sorted(bad, key=lambda row: (row.slide_id, row.reason))
        write_hashed_json(folder / _FILE, {"slides": [[row.slide_id, row.reason] for row in listed]})
    else:
        (folder / _FILE).unlink(missing_ok=True)


def read_quarantine(folder: Path) -> tuple[BadRow, ...]:
    """Return the list in a dataset's folder; empty if no slide was refused.

    Raises:
        DataError: the file was edited.
    """
    if not (folder / _FILE).is_file():
        return ()
    document, _ = read_hashed_json(folder / _FILE)
    return tuple(BadRow(slide_id, reason) for slide_id, reason in cast("list[list[str]]", document["slides"]))
