"""Folder layout of tasks: log, checkpoint and lease while a task runs, its artefact afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tissuebench.common.files import write_aside
from tissuebench.common.hashing import Json
from tissuebench.results.records.curves import CURVES_FILE
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind

LOG, JOB, RECORD, JOURNAL, LEASE = "log.txt", "job.json", "record.json", "journal.jsonl", "lease.json"
_ROOMS = {TaskKind.FEATURES: "features", TaskKind.STAGE: "stages", TaskKind.TRIAL: "trials"}
_KEPT = (LOG, JOB, JOURNAL, LEASE, CURVES_FILE, "progress.json")


def task_folder(home: Path, kind: TaskKind, key: str) -> Path:
    """Return the folder of one task; those of stages and of shards of features are named by their content."""
    return home / "runs" / _ROOMS[kind] / key


def is_finished(home: Path, kind: TaskKind, key: str) -> bool:
    """Return whether the task's artefact is complete: a trial's result, or the record that a stage writes last."""
    if kind is TaskKind.TRIAL:
        return ResultStore(results_folder(home)).has(key)
    return (task_folder(home, kind, key) / RECORD).is_file()


def write_record(folder: Path, record: Mapping[str, Json]) -> None:
    """Seal a stage's artefact with a record of its inputs and its cost."""
    write_aside(folder / RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a sealed stage: its inputs and its cost."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record


def clear_attempt(folder: Path) -> None:
    """Remove the files of a failed attempt, which is never resumed; its log, journal and curves stay."""
    for path in folder.iterdir():
        if path.name not in _KEPT and path.is_file():
            path.unlink(missing_ok=True)
