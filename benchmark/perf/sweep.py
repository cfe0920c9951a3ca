"""Benchmark of a sweep's overhead: a run of many tiny tasks, against the time that the tasks themselves take.

The time of a task is its worker's: from the job to the answer, with lease, journal and the writing of the result. A
slot's start-up, from starting the process to its first "ready", is paid once. The rest is the runner's: noticing that a
task is over, choosing the next, and slots that are idle at the end.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tissuebench.bench import open_data
from tissuebench.common.progress import ProgressDisplay
from tissuebench.executors.local import LocalExecutor
from tissuebench.perf.ratios import Ratio, show
from tissuebench.plans.expand import expand
from tissuebench.plans.schema import load_plan
from tissuebench.sweep.graph import Graph, SweepTask, build_graph
from tissuebench.sweep.jobs import State, TaskKind
from tissuebench.sweep.runner import Runner

GOAL = 1 / 1.10
_METHOD = "supervised"


@dataclass(slots=True)
class _Stopwatch:
    """An observer that collects the seconds of the tasks."""

    display: ProgressDisplay
    n_tasks: int
    seconds: list[float] = field(default_factory=list)

    def changed(self, task: SweepTask, state: State, detail: str, seconds: float) -> None:
        """Record a task that has ended."""
        if state is State.DONE and seconds:
            self.seconds.append(seconds)
            self.display.phase("tiny tasks", len(self.seconds), self.n_tasks)

    def tick(self) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


def run(console: Console, as_json: bool, home: Path | None = None, n_tasks: int = 40, n_slots: int = 2) -> list[Ratio]:
    """Run ``n_tasks`` trials of a few steps on ``n_slots`` slots of this machine, and print the overhead.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        home: folder with the embedded data set; None creates it for this run only.
        n_tasks: number of trials; their features are computed first and not counted.
        n_slots: number of slots, with one thread each.
    """
    with tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as scratch:
        folder = Path(scratch)
        if home is not None:
            (folder / "data").symlink_to((home / "data").absolute())
        with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
            data = open_data("synthetic", None, folder, display)
            seeds = list(range(n_tasks))
            overrides = (f"seeds={seeds}", "budgets=['masks:3p']", "training.steps=20", "evaluation.part=val")
            plan = load_plan("smoke", (*overrides, f"compute.slots={n_slots}", "compute.gpus=[]"))
            trials = [trial for trial in expand(plan, (_METHOD,), data, folder) if trial.method == _METHOD]
            graph = build_graph(trials, data, folder)
            features = {task.key: task for task in graph.of_kind(TaskKind.FEATURES)}
            first = trials[0]
            warm = Graph({**features, first.id: graph[first.id]})
            with closing(LocalExecutor(plan.compute, folder)) as executor:
                Runner(warm, executor, _Stopwatch(display, len(warm)), retries=0).run()
            watch = _Stopwatch(display, n_tasks - 1)
            started = time.perf_counter()
            with closing(LocalExecutor(plan.compute, folder)) as executor:
                summary = Runner(graph, executor, watch, retries=0).run()
                wall = time.perf_counter() - started
                start_up = sum(executor.start_up_seconds)
    if summary.failed:
        raise RuntimeError(f"{len(summary.failed)} of the tiny tasks failed")
    tasks = sum(watch.seconds)
    spread = (
        f"{len(watch.seconds)} tasks of {tasks / len(watch.seconds):.1f} s; start-up {start_up / n_slots:.1f} s a slot"
    )
    share = (tasks + start_up) / n_slots / wall
    lines = [
        Ratio(
            f"tasks and start-up / ({n_slots} slots x wall time)", share, GOAL, f"{spread}; overhead {1 / share:.3f}"
        ),
        Ratio(f"tasks alone / ({n_slots} slots x wall time)", tasks / n_slots / wall, None, "start-up as overhead"),
    ]
    show("A sweep of tiny tasks: what it costs beside them", lines, console, as_json)
    return lines
