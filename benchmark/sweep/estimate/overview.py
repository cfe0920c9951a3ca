"""Overview of a sweep before it runs: its trials, the tasks they share and what that saves, and the remaining cost."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tissuebench.common.hashing import Json
from tissuebench.common.units import size_of
from tissuebench.sweep.estimate.estimate import Estimate, about, estimate
from tissuebench.sweep.estimate.sizes import Sizes, is_of_windows
from tissuebench.sweep.estimate.trainings import Training, trainings_of
from tissuebench.sweep.graph import Sweep, SweepTask
from tissuebench.sweep.jobs import State, TaskKind
from tissuebench.sweep.state.record import record_of
from tissuebench.sweep.view.status import SweepReader

_PROBE_MAY_MISS = 1.5
"""A probe has the machine to itself; slots that run in parallel are slower."""

_GPU_FLOP_PER_SECOND = 50e12
"""Assumed speed of training on a GPU: a sixth of an A100's peak in bf16, as convolutions of moderate size reach."""


@dataclass(frozen=True, slots=True)
class TrialGroup:
    """Trials of a method at a budget; ``failed`` counts those that failed before or need a task that did."""

    dataset: str
    method: str
    budget: str
    trials: int
    finished: int
    to_run: int
    failed: int


@dataclass(frozen=True, slots=True)
class Shared:
    """Tasks of one name that trials share: how many there are, how many are finished, and which trials need them."""

    dataset: str
    name: str
    tasks: int
    finished: int
    trials: int
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Overview of a sweep; ``steps`` are executed instead of the ``independent_steps`` of trials run on their own."""

    rows: Sequence[TrialGroup]
    trainings: Sequence[Training]
    shared: Sequence[Shared]
    steps: int
    independent_steps: int
    steps_to_run: int
    estimate: Estimate
    tasks: Sequence[SweepTask]

    @property
    def saved_percent(self) -> float:
        """Percentage of the steps of independent trials that sharing saves."""
        return 100 * (1 - self.steps / self.independent_steps) if self.independent_steps else 0.0

    @property
    def seconds(self) -> tuple[float, float]:
        """Lower and upper estimate of the remaining seconds."""
        expected = self.estimate.seconds
        return expected, expected * (_PROBE_MAY_MISS if self.estimate.is_probed else 1.0)

    @property
    def gpu_hours(self) -> float:
        """Hours that the operations of all trainings take a GPU of ``_GPU_FLOP_PER_SECOND``; 0 if not counted."""
        return self.estimate.flop / _GPU_FLOP_PER_SECOND / 3600

    def to_json(self) -> str:
        """Return the overview as one line of JSON."""
        low, high = self.seconds
        document: dict[str, Json] = {
            "trials": [asdict(row) for row in self.rows],
            "trainings": [asdict(each) for each in self.trainings],
            "shared": [asdict(each) for each in self.shared],
            "steps": {
                "executed": self.steps,
                "independent": self.independent_steps,
                "saved_percent": round(self.saved_percent, 1),
                "to_run": self.steps_to_run,
            },
            "hours": {
                "low": round(low / 3600, 4),
                "high": round(high / 3600, 4),
                "slots": self.estimate.slots,
                "sources": list(self.estimate.sources),
                "gpu": round(self.gpu_hours, 4),
            },
            "disk_bytes": asdict(self.estimate.disk),
            "tasks": [
                {"key": task.key, "kind": task.job.kind.value, "title": task.job.title, "needs": list(task.needs)}
                for task in self.tasks
            ],
        }
        return json.dumps(document)


def overview(sweep: Sweep, home: Path) -> Overview:
    """Look at stored results and lay out the remaining work; trains nothing, but may time a few steps."""
    graph = sweep.graph
    states = {each.task.key: each.state for each in SweepReader(home, record_of(graph, "")).read().tasks}
    to_run = {key: task for key, task in graph.items() if states[key] in (State.WAITING, State.RUNNING)}
    cells: dict[tuple[str, str, str], Counter[State]] = defaultdict(Counter)
    for task in graph.of_kind(TaskKind.TRIAL):
        cells[task.trial.dataset, task.trial.arm, task.trial.budget.spec][states[task.key]] += 1
    rows = [
        TrialGroup(
            *cell,
            trials=found.total(),
            finished=found[State.DONE],
            to_run=found[State.WAITING] + found[State.RUNNING],
            failed=found[State.FAILED] + found[State.SKIPPED],
        )
        for cell, found in cells.items()
    ]
    return Overview(
        rows=rows,
        trainings=trainings_of(graph.values(), Sizes(sweep.data)),
        shared=_shared(sweep, states),
        steps=graph.steps,
        independent_steps=graph.independent_steps,
        steps_to_run=sum(task.steps for task in to_run.values()),
        estimate=estimate(to_run, sweep.data, sweep.plan.compute, home),
        tasks=list(graph.values()),
    )


def _shared(sweep: Sweep, states: dict[str, State]) -> list[Shared]:
    users: dict[str, set[str]] = defaultdict(set)  # keys of trials
    for key in reversed(list(sweep.graph)):
        task = sweep.graph[key]
        trials = {key} if task.job.kind is TaskKind.TRIAL else users[key]
        for need in task.needs:
            users[need] |= trials
    groups: dict[tuple[str, str], list[SweepTask]] = defaultdict(list)
    for task in sweep.graph.values():
        if task.job.kind is not TaskKind.TRIAL:
            groups[task.trial.dataset, _name(task)].append(task)
    found = []
    for (dataset, name), tasks in groups.items():
        trials = set().union(*(users[task.key] for task in tasks))
        methods = sorted({sweep.graph[key].trial.arm for key in trials})
        finished = sum(states[task.key] is State.DONE for task in tasks)
        found.append(Shared(dataset, name, len(tasks), finished, len(trials), tuple(methods)))
    return found


def _name(task: SweepTask) -> str:
    if task.job.kind is TaskKind.FEATURES:
        what = "windows" if is_of_windows(task) else "training tiles"
        return f"features of {what} by {task.trial.network.encoder}"
    return f"stage {task.job.document['stage']}"


def render(shown: Overview) -> Group:
    """Render the overview as a table and sentences."""
    several = len({row.dataset for row in shown.rows}) > 1
    table = Table(box=None, padding=(0, 1), header_style="bold")
    names = [*(["dataset"] if several else []), "method", "budget", "trials", "finished", "to run", "failed before"]
    for name in names:
        table.add_column(name, justify="left" if name in ("dataset", "method", "budget") else "right", no_wrap=True)
    for row in shown.rows:
        numbers = (row.trials, row.finished, row.to_run, row.failed)
        cells = [*([row.dataset] if several else []), row.method, row.budget, *(str(number) for number in numbers)]
        table.add_row(*map(Text, cells))
    totals = [sum(getattr(row, name) for row in shown.rows) for name in ("trials", "finished", "to_run", "failed")]
    table.add_row(*map(Text, [*([""] if several else []), "all", "", *map(str, totals)]), style="bold")
    return Group(table, *(Text(line) for line in _sentences(shown)))


def _sentences(shown: Overview) -> list[str]:
    lines = [""]
    for each in shown.shared:
        who = ", ".join(each.methods)
        there = f", {each.finished} there" if each.finished else ""
        part = "part" if each.tasks == 1 else "parts"
        lines.append(f"shared: {each.name}: {each.tasks} {part}{there}; for {each.trials} trials of {who}")
    lines.append(
        f"steps: {shown.steps:,} instead of {shown.independent_steps:,} if every trial ran alone: "
        f"{shown.saved_percent:.1f} % saved; {shown.steps_to_run:,} to run"
    )
    disk = shown.estimate.disk
    if not shown.estimate.sources:
        return [*lines, "nothing left to run"]
    lines += [f"training: {each.line}" for each in shown.trainings]
    low, high = (about(seconds) for seconds in shown.seconds)
    slots = shown.estimate.slots
    took = f"about {low}" if low == high else f"{low} to {high}"
    lines.append(
        f"time: {took} on {'one slot' if slots == 1 else f'{slots} slots'}; {'; '.join(shown.estimate.sources)}"
    )
    if shown.gpu_hours and not torch.cuda.is_available():
        lines.append(
            f"on a GPU: about {about(3600 * shown.gpu_hours)} of training, if it does "
            f"{_GPU_FLOP_PER_SECOND / 1e12:g} TFLOP/s (an assumption; {shown.estimate.flop / 1e15:.2g} PFLOP in all)"
        )
    features = f"{size_of(disk.features)} of features of training tiles"
    if disk.windows:
        features += f" and at most {size_of(disk.windows)} of those of windows"
    checkpoints = f"{size_of(disk.checkpoints)} of checkpoints while running"
    lines.append(f"disk: {features}, {size_of(disk.weights)} of weights to keep, {checkpoints}")
    return lines
