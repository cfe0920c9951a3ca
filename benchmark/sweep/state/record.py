"""Record of a sweep's tasks on disk, for commands that follow it from another terminal. Reading never imports torch."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tissuebench.common.files import write_aside
from tissuebench.common.hashing import Json, content_hash
from tissuebench.errors import ConfigError, DataError
from tissuebench.sweep.jobs import TaskKind

if TYPE_CHECKING:
    from tissuebench.sweep.graph import Graph

_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """One task of a sweep: its title, its amount of work, and the tasks before it."""

    key: str
    kind: TaskKind
    title: str
    steps: int
    tiles: int
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """The tasks of one sweep.

    Attributes:
        started: start of its latest run, in seconds since the epoch.
        request: options and values of its latest run, in turn, as of ``tissuebench run``; none if it is not known.
    """

    key: str
    title: str
    started: float
    tasks: tuple[RecordedTask, ...]
    request: tuple[str, ...] = ()

    @property
    def trials(self) -> frozenset[str]:
        """Ids of its trials."""
        return frozenset(task.key for task in self.tasks if task.kind is TaskKind.TRIAL)


def record_of(graph: Graph, title: str, request: Sequence[str] = ()) -> SweepRecord:
    """Return the record of a run of this graph; its key depends on the tasks only."""
    tasks = (
        RecordedTask(task.key, task.job.kind, task.job.title, task.steps, task.tiles, task.needs)
        for task in graph.values()
    )
    return SweepRecord(content_hash(sorted(graph))[:_KEY_LENGTH], title, time.time(), tuple(tasks), tuple(request))


def write_sweep(home: Path, graph: Graph, title: str, request: Sequence[str] = ()) -> str:
    """Write the record of a run of this graph, and return its key."""
    record = record_of(graph, title, request)
    content: dict[str, Json] = {
        "key": record.key,
        "title": title,
        "started": record.started,
        "request": list(request),
        "nodes": [{**asdict(task), "kind": task.kind.value} for task in record.tasks],
    }
    write_aside(_folder(home) / f"{record.key}.json", json.dumps(content, indent=1).encode())
    return record.key


def latest_sweep(home: Path, key: str | None = None) -> SweepRecord:
    """Return the sweep whose key begins with ``key``, or by default the one that was started last.

    Raises:
        ConfigError: there is none.
        DataError: its file is damaged.
    """
    paths = [path for path in _newest_first(home) if key is None or path.stem.startswith(key)]
    if not paths:
        named = f"no sweep {key} was" if key else "no sweep was"
        raise ConfigError(f"{_folder(home)}: {named} started here; start one with 'tissuebench run'")
    return _read(paths[0])


def all_sweeps(home: Path) -> list[SweepRecord]:
    """Return every sweep that was started here, the latest first, possibly none.

    Raises:
        DataError: a file is damaged.
    """
    return [_read(path) for path in _newest_first(home)]


def _newest_first(home: Path) -> list[Path]:
    paths = [path for path in _folder(home).glob("*.json") if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def _read(path: Path) -> SweepRecord:
    try:
        content = json.loads(path.read_text())
        tasks = tuple(
            RecordedTask(**{**task, "kind": TaskKind(task["kind"]), "needs": tuple(task["needs"])})
            for task in content["nodes"]
        )
        request = tuple(map(str, content.get("request", ())))
        return SweepRecord(content["key"], content["title"], content["started"], tasks, request)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a usable record of a sweep ({error}); delete it") from error


def _folder(home: Path) -> Path:
    return home / "runs" / "sweeps"
