"""Writing of the report folder: atomic, and never over files that are not a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tissuebench.common.folders import made_aside
from tissuebench.errors import DataError
from tissuebench.results.report.subject import Subject

INDEX, CONTENTS = "index.html", "report.json"
_KIND = "tissuebench report"


def write_report(
    folder: Path,
    subjects: Sequence[Subject],
    *,
    title: str = "Which labels are worth an annotator's time?",
) -> Path:
    """Write the report and return its ``index.html``; an older report at the same path is replaced atomically.

    The folder holds the page, its figures (SVG, PDF) with their data (CSV), and pictures; it works offline. The same
    subjects give the same bytes.

    Args:
        folder: folder of the report; created with its parents.
        subjects: one per group of comparable results.
        title: title of the page.

    Raises:
        DataError: the folder exists and holds anything that is not part of a report; results of a subject are not
            comparable; or a picture is damaged.
    """
    from tissuebench.results.report.page import build

    folder = folder.resolve()
    _require_ours(folder)
    files = build(subjects, title)
    files[CONTENTS] = json.dumps({"kind": _KIND, "files": sorted(files)}, indent=1).encode()
    with made_aside(folder) as aside:
        for name, data in files.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        _require_ours(folder)  # again, as drawing took a while
    return folder / INDEX


def _require_ours(folder: Path) -> None:
    """Raise unless the folder is missing, empty, or holds a report and nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; choose another folder for the report")
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    if not there:
        return
    try:
        contents = json.loads((folder / CONTENTS).read_bytes())
        known = {*contents["files"], CONTENTS} if contents["kind"] == _KIND else set()
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    if not known:
        raise DataError(f"{folder}: holds files but no report; choose another folder for the report")
    if foreign := sorted(there - known):
        raise DataError(f"{folder}: holds {foreign[0]}, which does not belong to the report; move it away first")
