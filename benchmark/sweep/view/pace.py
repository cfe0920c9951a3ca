"""Remaining time of a sweep, estimated from finished tasks and from the pace of running ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.heartbeat import Progress

TRAINING = "training"
MAIN_PHASES = (TRAINING, "encoding tiles", "encoding windows")
"""Phases of a task whose units are its steps or tiles, as the worker reports them."""


@dataclass(frozen=True, slots=True)
class Work:
    """Amount of work of a task: tiles or windows for features, optimiser steps for all others."""

    kind: TaskKind
    amount: int

    @property
    def is_training(self) -> bool:
        """Whether its amount is in steps."""
        return self.kind is not TaskKind.FEATURES


class Pace:
    """Seconds by kind and amount of work; the time after a task's last step (evaluation) is included."""

    def __init__(self) -> None:
        self._same: dict[Work, list[float]] = defaultdict(list)
        self._seconds: dict[TaskKind, float] = defaultdict(float)
        self._amounts: dict[TaskKind, float] = defaultdict(float)

    def over(self, work: Work, seconds: float, first: int = 0) -> None:
        """Record that a task took so many seconds, or, if it was resumed, that its work from ``first`` on did."""
        self._seconds[work.kind] += seconds
        self._amounts[work.kind] += work.amount - first
        if not first:
            self._same[work].append(seconds)

    def expected(self, work: Work) -> float | None:
        """Return the seconds of a whole task, based on tasks of the same size, else of its kind, else on training."""
        if seconds := self._same.get(work):
            return sum(seconds) / len(seconds)
        kinds = [work.kind]
        if work.is_training:
            kinds += [TaskKind.TRIAL, TaskKind.STAGE]
        kind = next((kind for kind in kinds if self._amounts.get(kind)), None)
        return None if kind is None else work.amount * self._seconds[kind] / self._amounts[kind]

    def left(
        self, waiting: Mapping[Work, int], running: Sequence[tuple[Work, Progress]], slots: int = 1
    ) -> float | None:
        """Return the seconds until all tasks are over; None while the duration of some kind of task is unknown.

        Args:
            waiting: number of waiting tasks of each amount of work.
            running: running tasks with their progress.
            slots: number of slots that share the work.
        """
        rates: dict[bool, list[float]] = defaultdict(list)
        for work, progress in running:
            if progress.phase in MAIN_PHASES and progress.rate > 0:
                rates[work.is_training].append(progress.rate)

        def whole(work: Work) -> float | None:
            expected = self.expected(work)
            if expected is None and (seen := rates[work.is_training]):
                expected = work.amount / median(seen)
            return expected

        rest = [_rest(progress, whole(work)) for work, progress in running]
        queued = [(whole(work), count) for work, count in waiting.items() if count]
        known = [seconds for seconds in rest if seconds is not None]
        total = sum(known) + sum(seconds * count for seconds, count in queued if seconds is not None)
        if len(known) < len(rest) or any(seconds is None for seconds, _ in queued):
            return None
        return max([total / max(slots, 1), *known])


def _rest(progress: Progress, whole: float | None) -> float | None:
    if not progress.total:
        return whole
    if progress.phase in MAIN_PHASES and whole is not None:
        return whole * (1 - progress.done / progress.total)
    return (progress.total - progress.done) / progress.rate if progress.rate > 0 else whole


def clock(seconds: float) -> str:
    """Format a duration as ``0:07``, ``12:30`` or ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
