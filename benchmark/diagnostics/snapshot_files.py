"""Looks at a stage while it was trained: figures and a picture, in its folder. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tissuebench.errors import DataError

_FOLDER = "looks"


def look_path(folder: Path, step: int) -> Path:
    """The figures after a step, in the folder of a stage; the picture is beside them."""
    return folder / _FOLDER / f"step-{step:06d}.json"


def picture_of(look: Path) -> Path:
    """The picture that goes with the figures."""
    return look.with_suffix(".png")


def last_look(folder: Path) -> tuple[Mapping[str, float], Path] | None:
    """The figures of the last look that a stage's folder has, their ``step`` among them, and its picture.

    Raises:
        DataError: the file is damaged.
    """
    found = list((folder / _FOLDER).glob("step-*.json"))
    if not found:
        return None
    last = max(found, key=lambda look: int(look.stem.removeprefix("step-")))
    try:
        figures: dict[str, float] = json.loads(last.read_bytes())
    except ValueError as error:
        raise DataError(f"{last}: not the figures of a snapshot ({error}); delete it") from None
    return figures, picture_of(last)
