"""A home with finished trials in its store, and a sweep's way to publish them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tissuebench.common.files import write_aside
from tissuebench.results.records.curves import CURVES_FILE, LOSS
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import comparison_key, results_folder
from tissuebench.results.tables.leaderboard import build
from tissuebench.tracking.publisher import Publisher

CLASSES = ("glass", "tumour_a", "tumour_b")
KEY = "feedc0de" * 5
SECONDS = 120.0  # far more than anything here takes; a publisher that needed them all says so in its line
CURVE = {10: 1.5, 20: 0.5}


def result(number: int, method: str = "supervised", budget: str = "masks:3p", minutes: float = 6.0) -> TrialResult:
    rng = np.random.default_rng(number)
    counts = rng.integers(1, 50, (2, 3, 3))
    calibration = np.zeros((2, 15, 3))
    calibration[:, 12, 0] = counts.sum((1, 2))
    calibration[:, 12, 2] = np.diagonal(counts, axis1=1, axis2=2).sum(-1)
    return TrialResult(
        trial_id=f"{number:016x}",
        dataset="tiny",
        method=method,
        budget=budget,
        minutes=minutes,
        replicate=0,
        seed=number % 3,
        classes=CLASSES,
        colors=((0, 0, 0), (200, 0, 0), (0, 0, 200)),
        diagnoses={"A": ("tumour_a",), "B": ("tumour_b",)},
        patient_ids=("p1", "p2"),
        slide_ids=("s1", "s2"),
        slide_diagnoses=("A", "B"),
        counts=counts,
        boundaries=np.cumsum(rng.integers(1, 9, (2, 3, 4)), axis=-1)[..., ::-1].copy(),
        calibration=calibration,
        slide_seconds=np.ones(2),
        identity={"protocol": 7, "split": "x", "method": method, "config": {"gamma": 2.0}, "seed": number % 3},
        environment={"packages": {"tissuebench": "9.8.7"}},
        seconds={"fit": 1.0},
        compute={"steps": 10, "samples": 80},
    )


TRIALS = [
    result(0),
    result(1),
    result(3, "weak"),
    result(4, "weak"),
    result(5, budget="masks:9p", minutes=18.0),
    result(6, "weak", "masks:9p", 18.0),
    result(7, "full", "masks:all", 60.0),
]


def write_curve(folder: Path, curve: Mapping[int, float]) -> None:
    """``metrics.csv`` of a folder, as a worker leaves it after these steps."""
    rows = "".join(f"{step},{loss}\n" for step, loss in curve.items())
    write_aside(folder / CURVES_FILE, f"step,{LOSS}\n{rows}".encode())


class Home:
    """A home with finished trials in its store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path / "runs"
        self.store = ResultStore(results_folder(path))
        self.results: list[TrialResult] = []

    def add(self, *results: TrialResult) -> None:
        for one in results:
            self.store.write(one)
            folder = self.runs / "trials" / one.trial_id
            folder.mkdir(parents=True)
            write_curve(folder, CURVE)
            self.results.append(one)

    def publish(self, stall_seconds: float = SECONDS) -> str:
        """As a sweep does it: every trial when it is over, the table at the end."""
        with Publisher(self.path, stall_seconds=stall_seconds) as publisher:
            return self.publish_with(publisher)

    def publish_with(self, publisher: Publisher) -> str:
        for one in self.results:
            publisher.trial(one.trial_id)
        table = build(self.results)
        publisher.board(table.rows, [one.trial_id for one in self.results], table.efficiency)
        return publisher.close(SECONDS)

    def sync(self) -> None:
        """What the line tells the user to type."""
        command = [sys.executable, "-P", "-m", "wandb", "sync", str(self.runs / "wandb")]
        subprocess.run(command, check=True, timeout=SECONDS, cwd=self.path, capture_output=True)

    def folders(self) -> list[str]:
        """Run ids by folder: an id that is here twice was written twice."""
        return sorted(path.stem.removeprefix("run-") for path in self.runs.glob("wandb/offline-run-*/*.wandb"))

    def run_ids(self) -> list[str]:
        return sorted([one.trial_id for one in self.results] + [self.board_id])

    @property
    def board_id(self) -> str:
        return f"leaderboard-{comparison_key(self.results[0])[:16]}"

    def processes(self) -> dict[int, str]:
        """Pid -> command of what still works on this home, the service of wandb included."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.path).encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found


def wait_until(condition, complaint: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)


def new_home(tmp_path, monkeypatch, *results: TrialResult):
    """Yields a home that no W&B account and no other session is known in; nothing works on it in the end."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "account"))
    made = Home(tmp_path / "bench")
    made.add(*results)
    yield made
    wait_until(lambda: not made.processes(), f"processes left: {made.processes()}")


def the_report(server):
    """The only report that a server has."""
    (report,) = server.reports.values()
    return report
