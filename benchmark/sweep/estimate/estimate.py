"""Estimate of a sweep's duration and disk usage before anything runs."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tissuebench.plans.compute import ComputeSettings
from tissuebench.plans.expand import PlannedData
from tissuebench.sweep.estimate.sizes import Disk, Sizes
from tissuebench.sweep.estimate.timing import Slots, Timer
from tissuebench.sweep.graph import SweepTask

_START_SECONDS = 10.0
"""Time until the workers have finished their imports; paid once per slot, by all slots at once."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate for the tasks that are still to run.

    Attributes:
        seconds: from the start to the end, on all slots; 0 if there is nothing to run.
        slots: number of tasks that run at once.
        sources: what ``seconds`` is based on, one phrase each.
        is_probed: whether part of it was timed just now, with random tiles on an otherwise idle machine.
        disk: bytes that will be written.
        flop: floating-point operations of all trainings, counted while a few steps were timed; 0 if none were.
    """

    seconds: float
    slots: int
    sources: tuple[str, ...]
    is_probed: bool
    disk: Disk
    flop: float = 0.0


def estimate(
    to_run: Mapping[str, SweepTask], data: Mapping[str, PlannedData], compute: ComputeSettings, home: Path
) -> Estimate:
    """Estimate from stored results, and from a probe where they are missing.

    Args:
        to_run: the tasks that are neither finished nor failed; all of their trials share network and training.
        data: opened data of each dataset.
        compute: where the sweep runs.
        home: folder with ``runs/``.
    """
    slots, sizes = Slots.of(compute), Sizes(data)
    seconds: dict[str, float] = {}
    sources: set[tuple[str, str]] = set()
    is_probed, flop = False, 0.0
    for dataset, opened in data.items():
        tasks = [task for task in to_run.values() if task.trial.dataset == dataset]
        if not tasks:
            continue
        timer = Timer(tasks[0].trial, opened, slots, home, sizes)
        seconds |= {task.key: timer.seconds(task) for task in tasks}
        sources |= timer.sources
        if timer.is_probed:
            is_probed, flop = True, flop + sum(map(timer.flop, tasks))
    whole = makespan(to_run, seconds, slots.count)
    if to_run and compute.executor != "inline":
        whole += _START_SECONDS
    told = tuple(
        f"{', '.join(sorted(what for _, what in group))}: {basis}"
        for basis, group in groupby(sorted(sources), key=lambda source: source[0])
    )
    return Estimate(whole, slots.count, told, is_probed, sizes.disk(to_run.values(), slots.count), flop)


def makespan(tasks: Mapping[str, SweepTask], seconds: Mapping[str, float], slots: int) -> float:
    """Return the seconds until all tasks are over, if each starts as soon as its needs are met and a slot is free."""
    waiting = {key: {need for need in task.needs if need in tasks} for key, task in tasks.items()}
    users: dict[str, list[str]] = defaultdict(list)
    for key, needs in waiting.items():
        for need in needs:
            users[need].append(key)
    place = {key: number for number, key in enumerate(tasks)}
    ready = [(place[key], key) for key, needs in waiting.items() if not needs]
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            _, key = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[key], key))
        now, over = heapq.heappop(running)
        for user in users[over]:
            waiting[user].discard(over)
            if not waiting[user]:
                heapq.heappush(ready, (place[user], user))
    return now


def about(seconds: float) -> str:
    """Format a duration with the precision that an estimate deserves: ``40 s``, ``25 min``, ``2.5 h``, ``4 days``."""
    for unit, length, up_to in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if seconds < up_to * length:
            return f"{_two_digits(seconds / length)} {unit}"
    return f"{_two_digits(seconds / 86400)} days"


def _two_digits(value: float) -> str:
    rounded = float(f"{value:.2g}")
    return f"{rounded:.1f}" if rounded < 10 and rounded % 1 else f"{rounded:.0f}"
