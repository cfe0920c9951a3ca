"""Status of a sweep, as seen from another terminal. Reads files only and never imports torch."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tissuebench.common.hashing import Json
from tissuebench.results.records.curves import read_last_loss
from tissuebench.sweep.jobs import State, TaskKind
from tissuebench.sweep.state.failures import read_failure
from tissuebench.sweep.state.folders import is_finished, task_folder
from tissuebench.sweep.state.heartbeat import Progress, read_progress
from tissuebench.sweep.state.journal import seconds_spent
from tissuebench.sweep.state.leases import ABANDONED_SECONDS, holder_of
from tissuebench.sweep.state.record import RecordedTask, SweepRecord
from tissuebench.sweep.view.pace import MAIN_PHASES, Pace, Work, clock

STATES = (State.WAITING, State.RUNNING, State.DONE, State.FAILED, State.SKIPPED)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """State of a task.

    Attributes:
        holder: the process that runs it.
        progress: progress, if it is running.
        loss: its last training loss, if it is running and has logged one.
        reason: why it failed or was not run, or that its holder has gone silent.
        seconds: seconds spent on it so far; None if unknown.
    """

    task: RecordedTask
    state: State
    holder: str = ""
    progress: Progress | None = None
    reason: str = ""
    seconds: float | None = None
    loss: float | None = None

    @property
    def work(self) -> Work:
        """Amount of work of the task."""
        return Work(self.task.kind, self.task.tiles or self.task.steps)

    @property
    def steps(self) -> int:
        """Optimiser steps that are finished."""
        if self.state is State.DONE:
            return self.task.steps
        progress = self.progress
        if progress is None or not progress.total:
            return 0
        return min(progress.done, self.task.steps) if progress.phase in MAIN_PHASES else self.task.steps

    def to_json(self) -> dict[str, Json]:
        """Return the status as JSON values; phase, done, total, rate and loss are null unless the task is running."""
        progress = self.progress
        return {
            "key": self.task.key,
            "kind": self.task.kind.value,
            "title": self.task.title,
            "state": self.state.value,
            "phase": progress.phase if progress else None,
            "done": progress.done if progress else None,
            "total": progress.total if progress else None,
            "rate": progress.rate if progress else None,
            "loss": self.loss,
            "holder": self.holder or None,
            "reason": self.reason or None,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """State of all tasks of a sweep."""

    record: SweepRecord
    tasks: Sequence[TaskStatus]

    @property
    def counts(self) -> Mapping[State, int]:
        """Number of tasks in each state, including states without any."""
        found = Counter(task.state for task in self.tasks)
        return {state: found[state] for state in STATES}

    @property
    def is_over(self) -> bool:
        """Whether no task is waiting or running."""
        return not self.counts[State.WAITING] and not self.counts[State.RUNNING]

    @property
    def steps(self) -> tuple[int, int]:
        """Finished optimiser steps, and the steps of all tasks."""
        return sum(task.steps for task in self.tasks), sum(task.task.steps for task in self.tasks)

    @property
    def eta_seconds(self) -> float | None:
        """Estimated seconds left at the pace so far, on as many slots as are busy now.

        None if no task is running or no pace is known.
        """
        running = [(task.work, task.progress) for task in self.tasks if task.state is State.RUNNING]
        moving = [(work, progress) for work, progress in running if progress is not None]
        if not moving:
            return None
        pace = Pace()
        for task in self.tasks:
            if task.state is State.DONE and task.seconds:
                pace.over(task.work, task.seconds)
        waiting = Counter(task.work for task in self.tasks if task.state is State.WAITING)
        waiting += Counter(work for work, progress in running if progress is None)
        return pace.left(waiting, moving, len(moving))

    def to_json(self) -> str:
        """Return the status as one line of JSON."""
        done, total = self.steps
        eta = self.eta_seconds
        document: dict[str, Json] = {
            "sweep": self.record.key,
            "title": self.record.title,
            "counts": {state.value: count for state, count in self.counts.items()},
            "steps": {"done": done, "total": total},
            "eta_seconds": None if eta is None else round(eta, 1),
            "tasks": [task.to_json() for task in self.tasks],
        }
        return json.dumps(document)

    @property
    def summary(self) -> str:
        """One-line summary."""
        done, total = self.steps
        eta = self.eta_seconds
        parts = [f"{count} {state.value}" for state, count in self.counts.items() if count]
        line = f"{self.record.title} ({self.record.key}): {', '.join(parts)}; step {done:,}/{total:,}"
        if eta is not None:
            return f"{line}; ETA {clock(eta)}"
        idle = self.counts[State.WAITING] and not self.counts[State.RUNNING]
        return f"{line}; no task is running" if idle else line


class SweepReader:
    """Reads the status of a sweep repeatedly; finished tasks are read only once.

    Args:
        home: folder with ``runs/``.
        record: record of the sweep.
    """

    def __init__(self, home: Path, record: SweepRecord) -> None:
        self._home, self._record = home, record
        self._done: dict[str, TaskStatus] = {}

    def read(self) -> SweepStatus:
        """Return the current state of all tasks."""
        found: dict[str, TaskStatus] = {}
        for task in self._record.tasks:
            status = self._done.get(task.key) or self._look_at(task)
            if status.state is State.DONE:
                self._done[task.key] = status
            if status.state is State.WAITING:
                status = next((_skipped(task, found[key]) for key in task.needs if _has_failed(found.get(key))), status)
            found[task.key] = status
        wanted = {key for status in found.values() if status.state is not State.DONE for key in status.task.needs}
        for key, status in found.items():
            if status.state is State.WAITING and status.task.kind is not TaskKind.TRIAL and key not in wanted:
                found[key] = TaskStatus(status.task, State.DONE, reason="no longer needed")
        return SweepStatus(self._record, list(found.values()))

    def _look_at(self, task: RecordedTask) -> TaskStatus:
        folder = task_folder(self._home, task.kind, task.key)
        progress, holder = read_progress(folder), holder_of(folder)  # read before the artefact, which is written first
        if is_finished(self._home, task.kind, task.key):
            return TaskStatus(task, State.DONE, seconds=seconds_spent(folder))
        if holder is not None:
            silent = time.time() - progress.time if progress else 0.0
            reason = f"no heartbeat for {clock(silent)}" if silent > ABANDONED_SECONDS else ""
            last = read_last_loss(folder)
            loss = None if last is None else last[1]
            return TaskStatus(task, State.RUNNING, str(holder), progress, reason, seconds_spent(folder), loss)
        if (failure := read_failure(self._home, task.kind, task.key)) is not None:
            return TaskStatus(task, State.FAILED, reason=failure.reason, seconds=seconds_spent(folder))
        return TaskStatus(task, State.WAITING)


def _has_failed(status: TaskStatus | None) -> bool:
    return status is not None and status.state in (State.FAILED, State.SKIPPED)


def _skipped(task: RecordedTask, cause: TaskStatus) -> TaskStatus:
    reason = cause.reason if cause.state is State.SKIPPED else f"not run: {cause.task.title} failed ({cause.reason})"
    return TaskStatus(task, State.SKIPPED, reason=reason)


def render(status: SweepStatus, max_rows: int | None = None) -> Group:
    """Render the summary, the running tasks and the failed ones."""
    parts: list[Text | Table] = [Text(status.summary, style="bold")]
    running = [task for task in status.tasks if task.state is State.RUNNING]
    if running:
        table = Table(
            "", "", "phase", "done", "rate", "loss", "ETA", "elapsed", "", box=None, padding=(0, 1), header_style="dim"
        )
        for task in running[:max_rows]:
            table.add_row(*map(Text, _cells(task)))
        parts.append(table)
    failed = [task for task in status.tasks if task.state is State.FAILED]
    for task in failed[:max_rows]:
        parts.append(Text(f"{task.task.kind} {task.task.title} ({task.task.key}): FAILED: {task.reason}", style="red"))
    return Group(*parts)


def _cells(status: TaskStatus) -> list[str]:
    progress, elapsed = status.progress, "" if status.seconds is None else clock(status.seconds)
    where, loss = status.reason or status.holder, "" if status.loss is None else f"{status.loss:.3g}"
    if progress is None or not progress.total:
        phase = progress.phase if progress else "starting"
        return [status.task.kind, status.task.title, phase, "", "", loss, "", elapsed, where]
    left = clock((progress.total - progress.done) / progress.rate) if progress.rate > 0 else ""
    done, rate = f"{progress.done:,}/{progress.total:,}", f"{progress.rate:.1f}/s"
    return [status.task.kind, status.task.title, progress.phase, done, rate, loss, left, elapsed, where]
