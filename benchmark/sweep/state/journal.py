"""Journal of a task, one line per event: the proof that nothing was run to its end twice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tissuebench.common.hashing import Json, canonical_json
from tissuebench.sweep.state.folders import JOURNAL

_NOT_GONE_ON_FROM = ("failed", "stalled", "memory")


def note(folder: Path, event: str, **facts: Json) -> None:
    """Append one event (``started``, ``done``, ``failed``, ``interrupted``, ``lost``, ...) with its time and facts."""
    line = canonical_json({"event": event, "time": round(time.time(), 3), **facts}) + "\n"
    handle = os.open(folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())  # one write, so that lines of several processes do not mix
    finally:
        os.close(handle)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return all events of a task, oldest first, without a truncated last line."""
    try:
        lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def seconds_spent(folder: Path) -> float | None:
    """Return the seconds spent on a task since it was last started from scratch, up to now if it is running.

    The attempts that picked up from each other are added up. None if it was never started. An attempt without a
    recorded end does not count.
    """
    spent: float | None = None
    since: float | None = None
    has_failed = False
    for event in read_journal(folder):
        if event["event"] == "started":
            spent, since, has_failed = 0.0 if spent is None or has_failed else spent, event["time"], False
        elif since is not None and spent is not None:
            spent, since = spent + event["time"] - since, None
            has_failed = event["event"] in _NOT_GONE_ON_FROM
    if since is None or spent is None:
        return spent
    return spent + max(0.0, time.time() - since)
