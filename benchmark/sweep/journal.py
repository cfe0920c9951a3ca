"""What happened to a node, a line an event: the proof that nothing was run to its end twice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tissuebench.hashing import Json, canonical_json
from tissuebench.sweep.folders import JOURNAL


def note(folder: Path, event: str, **facts: Json) -> None:
    """Append one event (``started``, ``done``, ``failed``, ``interrupted``, ``lost``) with the time and its facts."""
    line = canonical_json({"event": event, "time": round(time.time(), 3), **facts}) + "\n"
    handle = os.open(folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())  # one write, so that lines of several processes do not mix
    finally:
        os.close(handle)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """All events of a node, oldest first; a last line that was cut off is left out."""
    try:
        lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
