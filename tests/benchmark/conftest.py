"""Homes, graphs and runs of sweeps that train in seconds."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tests.benchmark.sweeps import TINY_PLAN
from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.ingest.ingest import ensure_store
from tissuebench.executors.inline import InlineExecutor
from tissuebench.plans.compute import ComputeSettings
from tissuebench.plans.expand import PlannedData, expand
from tissuebench.plans.schema import Plan, load_plan
from tissuebench.sweep.graph import Graph, build_graph
from tissuebench.sweep.runner import Runner, RunSummary


class Seen:
    """An observer that remembers."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.changes, self.notes = [], []

    def changed(self, task, state, detail, seconds):
        self.changes.append((task.job.title, state, detail))

    def tick(self):
        pass

    def note(self, text):
        self.notes.append(text)


@dataclass(frozen=True)
class Bench:
    """A home of its own with the tiny data ingested, and the tiny plan."""

    home: Path
    plan_path: Path
    data: PlannedData
    seen: Seen = field(default_factory=lambda: Seen())

    def plan(self, *overrides: str) -> Plan:
        return load_plan(str(self.plan_path), overrides)

    def trials(self, plan: Plan, *methods: str):
        return [trial for trial in expand(plan, methods, self.data, self.home) if trial.method in methods]

    def graph(self, trials, home: Path | None = None) -> Graph:
        return build_graph(trials, self.data, home or self.home)

    def run(self, trials, home: Path | None = None, executor=None, retries: int = 2, retry_failed=False) -> RunSummary:
        """Run trials, by default in this process; what the runner says is in ``self.seen``."""
        home = home or self.home
        executor = executor or InlineExecutor(ComputeSettings(), home)
        self.seen.clear()
        try:
            return Runner(self.graph(trials, home), executor, self.seen, retries, retry_failed).run()
        finally:
            executor.close()

    def sized(self, tile_px: int) -> Bench:
        """The same home with the data in tiles of another size."""
        recipe = find_recipe(f"folder@{tile_px}", self.data_root)
        made = ensure_store(recipe, self.home, self.data_root, lambda *_: None)
        return replace(self, data=PlannedData(made.store, made.split))

    def elsewhere(self, home: Path) -> Path:
        """Another home with the same data."""
        home.mkdir()
        (home / "data").symlink_to(self.home / "data")
        (home / "source.txt").write_text(str(self.data_root))
        return home

    def options(self, *extra: str) -> list[str]:
        """A line for ``tissuebench``."""
        where = ("--data-root", str(self.data_root), "--home", str(self.home), "--plan", str(self.plan_path))
        return ["run", "--dataset", "folder", *where, *extra]

    def command(self, *extra: str) -> list[str]:
        """The same for a shell."""
        return [sys.executable, "-P", "-m", "tissuebench", *self.options(*extra)]

    @property
    def data_root(self) -> Path:
        return Path((self.home / "source.txt").read_text())


@pytest.fixture
def bench(tiny_data, tmp_path) -> Bench:
    home = tmp_path / "home"
    shutil.copytree(tiny_data.home, home)
    (home / "source.txt").write_text(str(tiny_data.root))
    plan_path = home / "tiny.yaml"
    plan_path.write_text(yaml.safe_dump(TINY_PLAN))
    return Bench(home, plan_path, PlannedData(tiny_data.store, tiny_data.split))


@pytest.fixture
def display():
    with ProgressDisplay(Console(file=Path(os.devnull).open("w"))) as shown:
        yield shown


@pytest.fixture
def quiet_environment():
    return {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
