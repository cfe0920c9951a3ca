"""A task that does what a test wants, in place of a supervised worker, on whatever machine the executor chose.

``stand_in`` makes a folder for ``PYTHONPATH``: every interpreter started with it has another ``run_supervised``. A task
then begins (``StandIn.begins``), and runs until it is told how to end (``StandIn.end``), is asked to hand back, or is killed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tissuebench.runtime.processes import World
from tissuebench.sweep.jobs import Ended, Job, Outcome, TaskKind

_CUSTOMISE = """
import json, os, time
import tissuebench.sweep.supervisor as supervisor
from tissuebench.sweep.jobs import Ended, Outcome

real = supervisor.run_supervised

def run_supervised(job, slot, limits, stop, worlds=None):
    if "stand_in" not in job.document:
        return real(job, slot, limits, stop, worlds)
    worlds = slot.worlds() if worlds is None else worlds
    begun = {
        "pid": os.getpid(), "parent": os.getppid(), "gpus": list(slot.gpus), "threads": slot.threads, "stall": limits.stall_seconds,
        "memory": limits.memory_bytes, "worlds": [world.environment() for world in worlds],
        "slurm": sorted(name for name in os.environ if name.startswith("SLURM_")),
        "place": os.environ.get("SLURMD_NODENAME") or os.environ.get("TEST_NODE"),
    }
    with (job.home / f"{job.key}.begun").open("a") as file:
        file.write(json.dumps(begun) + "\\n")
    end = job.home / f"{job.key}.end"
    while not end.exists():
        if stop():
            return Ended(job.key, Outcome.INTERRUPTED, "was asked to", 1.0)
        time.sleep(0.02)
    return Ended(job.key, Outcome(end.read_text()), "was told to", 2.0)

supervisor.run_supervised = run_supervised
"""


def stand_in(folder: Path) -> dict[str, str]:
    """Environment in which every interpreter runs such tasks."""
    (folder / "sitecustomize.py").write_text(_CUSTOMISE)
    return {"PYTHONPATH": str(folder)}


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Poll; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class StandIn:
    """One such task, seen from the test."""

    job: Job

    @classmethod
    def make(cls, home: Path, number: int) -> StandIn:
        key = f"{number:064x}"
        return cls(Job(key, TaskKind.TRIAL, f"trial {number}: masks:2p / seed 0 'ä'", home, {"stand_in": number}))

    @property
    def begun(self) -> list[dict]:
        """What each of its processes noted when it began."""
        path = self.job.home / f"{self.job.key}.begun"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def begins(self, times: int = 1) -> list[dict]:
        """Wait until it has begun so often."""
        wait_until(lambda: len(self.begun) >= times, f"{self.job.title} began {times} times, seen {self.begun}")
        return self.begun

    def end(self, outcome: Outcome = Outcome.DONE) -> None:
        """Let it end."""
        aside = self.job.home / f"{self.job.key}.aside"
        aside.write_text(outcome.value)
        aside.rename(self.job.home / f"{self.job.key}.end")


def collect(executor, number: int, seconds: float = 60) -> dict[str, Ended]:
    """The next tasks that end, by key."""
    ended: dict[str, Ended] = {}
    deadline = time.monotonic() + seconds
    while len(ended) < number:
        assert time.monotonic() < deadline, f"{len(ended)} of {number} ended within {seconds:.0f} s"
        for each in executor.poll(1.0):
            assert each.key not in ended, "told twice"
            ended[each.key] = each
    return ended


def worlds_of(begun: list[dict]) -> list[World]:
    """Who the processes of a trial were told they are, by rank."""
    worlds = [World.from_environment(world) for each in begun for world in each["worlds"]]
    return sorted(worlds, key=lambda world: world.rank)


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and pid != os.getpid()
