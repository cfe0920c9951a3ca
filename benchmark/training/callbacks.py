"""Callbacks around every training step: seeds, loss curve, progress."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from torch import Tensor

from tissuebench.common.hashing import derive_seed
from tissuebench.errors import TissueBenchError
from tissuebench.runtime.processes import World, sum_over_processes

_HISTORY_EVERY = 10


class TrainingError(TissueBenchError):
    """Training cannot continue, for example because the loss is no longer finite."""


def seed_everything(seed: int) -> None:
    """Seed every global generator; called once per stage or trial and once per step, by the benchmark only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from it
    torch.manual_seed(seed)


class StepSeeds(Callback):
    """Reseeds the global generators for every step, as a function of trial seed and step.

    Dropout and anything a method draws then depend on the step alone: a resumed trial continues with the same bits, and
    random numbers drawn by one method never shift those of another. The processes of a trial draw the same numbers,
    those of the whole batch, of which each uses the part of its tiles.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seed for the step about to begin."""
        seed_everything(derive_seed(self._seed, "step", trainer.global_step))


class History(Callback):
    """Records the loss every few steps in the checkpoint, and stops a trial whose loss is not finite.

    With several processes this is the mean of their losses, which is the loss of the whole batch.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.points: list[tuple[int, float]] = []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Record the loss, but not at every step, as reading it waits for the device."""
        step = trainer.global_step
        if step % _HISTORY_EVERY and step != trainer.max_steps:
            return
        mine = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        loss = math.nan if mine is None else float(sum_over_processes(mine)) / self._world.size
        if not math.isfinite(loss):
            raise TrainingError(f"loss is {loss} at step {step}")
        self.points.append((step, loss))

    def state_dict(self) -> dict[str, Any]:
        """Return the points so far."""
        return {"points": [list(point) for point in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the points of the fit being resumed."""
        self.points = [(int(step), float(loss)) for step, loss in state_dict["points"]]


class WaitingForData(Profiler):
    """Measures how long a fit waits for its next batch, with Lightning's profiler hooks."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = self._asked = time.perf_counter()
        self._waited = 0.0

    def start(self, action_name: str) -> None:
        """Note when an action begins."""
        if action_name == "run_training_epoch":
            self._begun = time.perf_counter()
        self._asked = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add up the time spent fetching batches; no other action begins while a batch is fetched."""
        if action_name.endswith("train_dataloader_next"):
            self._waited += time.perf_counter() - self._asked

    @property
    def share(self) -> float:
        """Share of the time since the fit began, or was resumed, that was spent waiting."""
        return self._waited / max(time.perf_counter() - self._begun, 1e-9)


class StepReport(Callback):
    """Reports every step to the progress display."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the first step, which is not 0 in a resumed fit."""
        self._report(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Report one more step."""
        self._report(trainer.global_step)
