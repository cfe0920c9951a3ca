"""Trainings of a sweep: how long each stage of each method is trained, and with which optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.sweep.estimate.sizes import Sizes, stage_of
from tissuebench.sweep.graph import SweepTask
from tissuebench.sweep.jobs import TaskKind


@dataclass(frozen=True, slots=True)
class Training:
    """Training of one stage of a method: its length at the smallest and the largest budget, and its optimiser."""

    dataset: str
    method: str
    stage: str
    epochs: float | None
    steps: tuple[int, int]
    tiles: int
    optimizer: str
    learning_rate: float
    rate_schedule: str

    @property
    def line(self) -> str:
        """The training in words."""
        low, high = self.steps
        steps = ("1 step" if high == 1 else f"{low:,} steps") if low == high else f"{low:,} to {high:,} steps"
        epochs = f"{self.epochs:g} epochs, " if self.epochs else ""
        stage = "" if self.stage == self.method else f", {self.stage}"
        return (
            f"{self.method}{stage}: {epochs}{steps} of {self.tiles} tiles; {self.optimizer}, rate "
            f"{self.learning_rate:g}, {self.rate_schedule}"
        )


def trainings_of(tasks: Iterable[SweepTask], sizes: Sizes) -> list[Training]:
    """Return one training per method and stage, over all budgets; a shared stage under the first method that has it."""
    found: dict[tuple[str, str, str], list[tuple[TrainingSettings, int]]] = defaultdict(list)
    for task in tasks:
        if task.job.kind is not TaskKind.FEATURES:
            one, trial = stage_of(task), task.trial
            found[trial.dataset, trial.arm, one.name].append((one.training, sizes.of(task).tiles))
    made = []
    for (dataset, arm, name), lengths in found.items():
        (training, tiles), steps = lengths[0], [one.steps for one, _ in lengths]
        how = (training.optimizer.value, training.learning_rate, training.rate_schedule.value)
        stage = arm if name == arm.partition("[")[0] else name
        made.append(Training(dataset, arm, stage, training.epochs, (min(steps), max(steps)), tiles, *how))
    return made
