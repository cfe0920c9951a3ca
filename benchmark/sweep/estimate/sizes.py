"""Sizes of a sweep's tasks before anything runs: tiles per step, and bytes on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tissuebench.features.shards import WINDOWS
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Stage
from tissuebench.plans.expand import PlannedData
from tissuebench.sweep.graph import SweepTask, stages_of
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.stage_facts import BuiltStages, StageFacts

_MOMENTS = 2


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that are written: features and weights stay, checkpoints exist while their tasks run.

    Attributes:
        features: features of training tiles.
        windows: features of windows, at most: which of them are needed is known to the tasks alone.
        weights: final states.
        checkpoints: checkpoints at once.
    """

    features: int
    windows: int
    weights: int
    checkpoints: int


class Sizes:
    """Sizes of tasks; each kind of stage is built once, with random weights.

    Args:
        data: opened data of each dataset.
    """

    def __init__(self, data: Mapping[str, PlannedData]) -> None:
        self._built = {dataset: BuiltStages(opened) for dataset, opened in data.items()}

    def of(self, task: SweepTask) -> StageFacts:
        """Return the size of a stage or of a trial's last stage."""
        stage, built = stage_of(task), self._built[task.trial.dataset]
        return built.facts(stage.module, stage.config, task.trial.network, stage.training)

    def disk(self, tasks: Iterable[SweepTask], slots: int) -> Disk:
        """Return what these tasks write if as many of them as there are ``slots`` run at once."""
        features, windows, sizes = 0, 0, []
        for task in tasks:
            if task.job.kind is not TaskKind.FEATURES:
                sizes.append(self.of(task))
            elif is_of_windows(task):
                windows += task.n_bytes
            else:
                features += task.n_bytes
        largest = max((size.weights + _MOMENTS * size.trained for size in sizes), default=0)
        return Disk(features, windows, sum(size.weights for size in sizes), largest * min(slots, len(sizes)))


def stage_of(task: SweepTask) -> Stage:
    """Return the stage that a task trains, which may be the last one of its trial."""
    trial = task.trial
    if task.job.kind is TaskKind.TRIAL:
        kind = find_method(trial.method)
        return Stage(trial.method, kind, trial.config, trial.training, kind.consumes)
    return next(each for each in stages_of(trial) if each.name == task.job.document["stage"])


def is_of_windows(task: SweepTask) -> bool:
    """Whether a task of features encodes windows, rather than training tiles."""
    shard: Any = task.job.document["shard"]
    return bool(shard["of"] == WINDOWS)
