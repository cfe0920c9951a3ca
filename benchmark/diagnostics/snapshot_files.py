"""Files of training snapshots: figures and a picture in the folder of a stage. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tissuebench.errors import DataError

_FOLDER = "looks"  # stored trials have this name


def snapshot_path(folder: Path, step: int) -> Path:
    """Return the path of the figures after a step, in the folder of a stage; the picture is next to it."""
    return folder / _FOLDER / f"step-{step:06d}.json"


def picture_of(snapshot: Path) -> Path:
    """Return the path of the picture that belongs to the figures."""
    return snapshot.with_suffix(".png")


def last_snapshot(folder: Path) -> tuple[Mapping[str, float], Path] | None:
    """Return the figures of a stage's last snapshot, including their ``step``, and its picture; None if there is none.

    Raises:
        DataError: the file is damaged.
    """
    found = list((folder / _FOLDER).glob("step-*.json"))
    if not found:
        return None
    last = max(found, key=lambda path: int(path.stem.removeprefix("step-")))
    try:
        figures: dict[str, float] = json.loads(last.read_bytes())
    except ValueError as error:
        raise DataError(f"{last}: not the figures of a snapshot ({error}); delete it") from None
    return figures, picture_of(last)
