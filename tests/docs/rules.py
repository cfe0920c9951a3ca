"""How the commands of the pages are run here: which are smaller than they say, and the few that are not run at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOT_RUN: Mapping[str, str] = {
    "make test": "it would run this very test again, without end",
}
"""What nobody executes, and why. Everything else that stands on a page is executed."""

CLUSTERS = ("slurm", "ray")
"""Executors that need a cluster: their lines are executed by a slow test on a real one."""

_TRAINS = re.compile(r"(\w+=\S+ )*(make (bench|sweep)|tissuebench (run|plan show))\b")
_MAKE = re.compile(r"(\w+=\S+ )*make ")
_TRIAL = re.compile(r"\b3f9a\b")


@dataclass(frozen=True)
class Small:
    """A data set and a plan that train in seconds; what is said last on a command line wins."""

    data_root: str
    plan: str

    def options(self, line: str, executor: str | None = None, settings: Sequence[str] = ()) -> str:
        """What is appended to a line that trains; the data set of the line stays if it is a folder of the page."""
        own_data = re.search(r"(DATASET=|--dataset )(folder|mine)\b", line)
        if _MAKE.match(line):
            data = "" if own_data else f" DATASET=folder DATA_ROOT='{self.data_root}'"
            where = f" EXECUTOR={executor}" if executor else ""
            keys = f" SET='{' '.join(settings)}'" if settings else ""
            return f"{data} PLAN='{self.plan}'{where}{keys}"
        data = "" if own_data else f" --dataset folder --data-root '{self.data_root}'"
        where = f" --executor {executor}" if executor and " run " in f" {line} " else ""
        return f"{data} --plan '{self.plan}'{where}" + "".join(f" --set {key}" for key in settings)


def trains(line: str) -> bool:
    """Whether the line reads a plan, and is therefore made small."""
    return _TRAINS.match(line) is not None


def cluster(line: str) -> str | None:
    """The cluster that the line needs."""
    return next((name for name in CLUSTERS if f"EXECUTOR={name}" in line or f"--executor {name}" in line), None)


def with_trial(line: str, trial_id: str) -> str:
    """The line with a trial that exists in place of the one that pages speak of."""
    return _TRIAL.sub(trial_id, line)
