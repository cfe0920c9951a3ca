"""Runner that walks the graph of a sweep: finished tasks are never run again, failures are kept with their reason.

Files are the source of truth: results, records of stages, failures, leases. The runner starts the tasks that are ready
and trusts the files; any number of runners may work on the same graph, and each task is run by one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tissuebench.sweep.executor import Executor
from tissuebench.sweep.graph import Graph, SweepTask
from tissuebench.sweep.jobs import Ended, Outcome, State, TaskKind
from tissuebench.sweep.state import journal
from tissuebench.sweep.state.failures import TaskFailure, forget_failure, keep_failure, read_failure
from tissuebench.sweep.state.folders import clear_attempt, is_finished, task_folder
from tissuebench.sweep.state.leases import ABANDONED_SECONDS, Owner, holder_of

_POLL_SECONDS = 0.5
_LOOK_ELSEWHERE_SECONDS = 1.0
_STOP_SECONDS = 120.0


class Observer(Protocol):
    """Interface for displays that follow a sweep."""

    def changed(self, task: SweepTask, state: State, detail: str, seconds: float) -> None:
        """Handle a task's change of state."""
        ...

    def tick(self) -> None:
        """Handle the passage of time; called regularly."""
        ...

    def note(self, text: str) -> None:
        """Show a message once."""
        ...


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run, as keys of tasks.

    Attributes:
        done: finished by this run, or by another one in the meantime.
        skipped: finished before.
        failed: failed now or before, or not run because a task that they need has failed.
        steps: optimiser steps of the tasks in ``done``.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]
    steps: int = 0


class Runner:
    """One run of a graph.

    Args:
        graph: the tasks to run.
        executor: runs the tasks.
        observer: notified of all changes.
        retries: how often a lost task is restarted.
        retry_failed: run again the tasks that failed in earlier runs.
        changed: called with each task and its new state, for those that were not finished before this run.
    """

    def __init__(
        self,
        graph: Graph,
        executor: Executor,
        observer: Observer,
        retries: int,
        retry_failed: bool = False,
        changed: Callable[[SweepTask, State], None] = lambda task, state: None,
    ) -> None:
        self._changed = changed
        self._graph, self._executor, self._observer = graph, executor, observer
        self._retries, self._retry_failed = retries, retry_failed
        self._states = dict.fromkeys(graph, State.WAITING)
        self._lost = dict.fromkeys(graph, 0)
        self._finished_before: list[str] = []
        self._looked_elsewhere = 0.0
        self._seen: dict[str, tuple[Owner, float]] = {}

    def run(self) -> RunSummary:
        """Run all unfinished tasks.

        Raises:
            KeyboardInterrupt: interrupted; every running task was checkpointed and handed back.
            TissueBenchError: the executor cannot be used.
        """
        self._take_stock()
        try:
            while any(state in (State.WAITING, State.RUNNING, State.ELSEWHERE) for state in self._states.values()):
                self._start_what_is_ready()
                for ended in self._executor.poll(_POLL_SECONDS):
                    self._take(ended)
                self._look_elsewhere()
                self._observer.tick()
        except KeyboardInterrupt:
            self._hand_back()
            raise
        return self._summary()

    def _take_stock(self) -> None:
        for key, task in self._graph.items():
            if is_finished(task.job.home, task.job.kind, key):
                self._finished_before.append(key)
                self._set(task, State.DONE, "already finished")
        needed = self._needed()
        failed_before = 0
        for key in needed:
            task = self._graph[key]
            failure = read_failure(task.job.home, task.job.kind, key)
            if failure is None or self._states[key] is not State.WAITING:
                continue
            if self._retry_failed:
                forget_failure(task.job.home, task.job.kind, key)
                continue
            failed_before += 1
            self._fail(task, failure.reason, "", keep=False)
        unneeded = [key for key, state in self._states.items() if state is State.WAITING and key not in needed]
        for key in unneeded:  # all trials that would use it have finished
            self._set(self._graph[key], State.DONE, "no longer needed")
            self._finished_before.append(key)
        n_finished = sum(self._graph[key].job.kind is TaskKind.TRIAL for key in self._finished_before)
        if n_finished:
            self._observer.note(
                f"{n_finished} of {len(self._graph.of_kind(TaskKind.TRIAL))} trials are already finished"
            )
        if failed_before:
            self._observer.note(
                f"{failed_before} tasks failed earlier and are skipped; run them again with --retry-failed"
            )

    def _needed(self) -> list[str]:
        """Return the keys of unfinished trials and of the tasks that they need."""
        wanted = {task.key for task in self._graph.of_kind(TaskKind.TRIAL) if self._states[task.key] is not State.DONE}
        for key in reversed(list(self._graph)):
            if key in wanted and self._states[key] is not State.DONE:
                wanted |= set(self._graph[key].needs)
        return [key for key in self._graph if key in wanted]

    def _start_what_is_ready(self) -> None:
        room = self._executor.capacity - sum(state is State.RUNNING for state in self._states.values())
        for key, task in self._graph.items():
            if room <= 0:
                return
            if self._states[key] is not State.WAITING:
                continue
            if any(self._states[need] is not State.DONE for need in task.needs):
                continue
            if is_finished(task.job.home, task.job.kind, key):
                self._set(task, State.DONE, "finished elsewhere")
                continue
            holder = holder_of(task_folder(task.job.home, task.job.kind, key))
            if holder is not None and not self._is_abandoned(key, holder):
                self._set(task, State.ELSEWHERE, str(holder))
                continue
            self._executor.start(task.job)
            self._set(task, State.RUNNING, "")
            room -= 1

    def _take(self, ended: Ended) -> None:
        task = self._graph[ended.key]
        match ended.outcome:
            case Outcome.DONE:
                self._set(task, State.DONE, ended.detail, ended.seconds)
            case Outcome.HELD:
                self._set(task, State.ELSEWHERE, ended.detail)
            case Outcome.INTERRUPTED:
                self._set(task, State.WAITING, "handed back")
            case Outcome.FAILED:
                # The worker has kept the reason, unless it could not write.
                kept = read_failure(task.job.home, task.job.kind, task.key) is not None
                self._fail(task, ended.detail, "", keep=not kept, seconds=ended.seconds)
            case Outcome.LOST:
                self._lost[task.key] += 1
                self._journal(task, "lost", ended.detail)
                if self._lost[task.key] <= self._retries:
                    self._set(task, State.WAITING, f"{ended.detail}; started again")
                else:
                    times = f"{self._lost[task.key]} times: " if self._lost[task.key] > 1 else ""
                    self._fail(task, f"lost {times}{ended.detail}", _end_of_log(task), keep=True, seconds=ended.seconds)
            case Outcome.STALLED | Outcome.MEMORY:
                self._journal(task, ended.outcome.value, ended.detail)
                self._fail(task, ended.detail, _end_of_log(task), keep=True, seconds=ended.seconds)

    def _fail(self, task: SweepTask, reason: str, trace: str, keep: bool, seconds: float = 0.0) -> None:
        if keep:
            self._keep(task, TaskFailure(reason, trace))
        self._set(task, State.FAILED, reason, seconds)
        for key in self._graph.dependents(task.key):
            dependent = self._graph[key]
            if self._states[key] is State.WAITING:
                why = f"not run: {task.job.title} failed ({reason})"
                self._keep(dependent, TaskFailure(why, skipped=True))
                self._set(dependent, State.SKIPPED, why)

    def _keep(self, task: SweepTask, failure: TaskFailure) -> None:
        try:
            if not failure.skipped:
                clear_attempt(task_folder(task.job.home, task.job.kind, task.key))
            keep_failure(task.job, failure)
        except OSError as error:  # the failure is still shown and counted
            self._observer.note(f"{task.job.title}: its failure could not be recorded ({error})")

    def _look_elsewhere(self) -> None:
        """Check on tasks that other runs execute: finished, failed or given up there."""
        if time.monotonic() - self._looked_elsewhere < _LOOK_ELSEWHERE_SECONDS:
            return
        self._looked_elsewhere = time.monotonic()
        for key, state in self._states.items():
            if state is not State.ELSEWHERE:
                continue
            task = self._graph[key]
            folder = task_folder(task.job.home, task.job.kind, key)
            if is_finished(task.job.home, task.job.kind, key):
                self._set(task, State.DONE, "finished elsewhere")
            elif (holder := holder_of(folder)) is None:
                failure = read_failure(task.job.home, task.job.kind, key)
                if failure is None:
                    self._set(task, State.WAITING, "given up elsewhere")
                else:
                    self._fail(task, failure.reason, "", keep=False)
            elif self._is_abandoned(key, holder):
                self._set(task, State.WAITING, "given up elsewhere")

    def _is_abandoned(self, key: str, holder: Owner) -> bool:
        """Return whether another node has not renewed its lease for too long; the worker checks once more."""
        seen, since = self._seen.get(key, (None, 0.0))
        if seen != holder:
            self._seen[key] = (holder, time.monotonic())
            return False
        return time.monotonic() - since > ABANDONED_SECONDS

    @property
    def _is_busy(self) -> bool:
        return any(state is State.RUNNING for state in self._states.values())

    def _hand_back(self) -> None:
        running = sum(state is State.RUNNING for state in self._states.values())
        if not running:
            return
        self._observer.note(f"interrupted: waiting for the checkpoints of {running} tasks")
        self._executor.stop()
        until = time.monotonic() + _STOP_SECONDS
        while self._is_busy and time.monotonic() < until:
            for ended in self._executor.poll(_POLL_SECONDS):
                if ended.outcome is Outcome.LOST:
                    ended = Ended(ended.key, Outcome.INTERRUPTED)
                self._take(ended)
            self._observer.tick()

    def _set(self, task: SweepTask, state: State, detail: str, seconds: float = 0.0) -> None:
        self._states[task.key] = state
        if task.key not in self._finished_before:
            self._changed(task, state)
        self._observer.changed(task, state, detail, seconds)

    def _journal(self, task: SweepTask, event: str, detail: str) -> None:
        try:
            journal.note(task_folder(task.job.home, task.job.kind, task.key), event, reason=detail)
        except OSError as error:
            self._observer.note(f"{task.job.title}: journal could not be written ({error})")

    def _summary(self) -> RunSummary:
        before = set(self._finished_before)
        done = tuple(key for key, state in self._states.items() if state is State.DONE and key not in before)
        failed = tuple(key for key, state in self._states.items() if state in (State.FAILED, State.SKIPPED))
        steps = sum(self._graph[key].steps for key in done)
        return RunSummary(done, tuple(self._finished_before), failed, steps)


def _end_of_log(task: SweepTask, n_lines: int = 40) -> str:
    path = task_folder(task.job.home, task.job.kind, task.key) / "log.txt"
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-n_lines:])
    except OSError:
        return ""
