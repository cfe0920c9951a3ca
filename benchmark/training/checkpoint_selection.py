"""Checkpoint selection on labels that were paid for: some of the bought patients are held out of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tissuebench.datasets.labels.budget import LabelBudget, selection_patients
from tissuebench.errors import ConfigError


def held_out_patients(budget: LabelBudget, share: float) -> tuple[str, ...]:
    """Return the bought patients used to select the checkpoint; none if ``share`` is 0, which keeps the last one.

    Raises:
        ConfigError: the budget is too small to hold out any patient.
    """
    chosen = selection_patients(budget, share)
    if share and not chosen:
        raise ConfigError(
            f"training.selection_share={share:g} holds out one in {round(1 / share)} patients with masks, but budget "
            f"{budget.spec!r} bought {len(budget.patients)} in full; buy more patients (masks:…p) or set it to 0"
        )
    return chosen


class KeepBest(Callback):
    """Scores the network at regular intervals and restores the best state at the end; ties go to the later step.

    Its state is part of the checkpoint, so that a resumed fit makes the same choice as an uninterrupted one.

    Args:
        score: scores the network in its current state, higher is better; may be NaN, which never wins.
        every: steps between two evaluations; the last step is always evaluated.
    """

    def __init__(self, score: Callable[[LightningModule], float], every: int) -> None:
        self._score, self._every = score, every
        self.points: list[tuple[int, float]] = []
        self._weights: dict[str, Tensor] = {}

    @property
    def step(self) -> int:
        """Step whose state is kept; 0 before the first evaluation."""
        return max(self.points, key=lambda point: (point[1], point[0]))[0] if self.points else 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Catch up on an evaluation that was due when the fit was interrupted."""
        if trainer.global_step and all(step != trainer.global_step for step, _ in self.points):
            self._take_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Evaluate if due."""
        self._take_if_due(trainer, pl_module)

    def _take_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if step % self._every and step != trainer.max_steps:
            return
        score = self._score(pl_module)
        pl_module.train()
        self.points.append((step, float("-inf") if math.isnan(score) else score))
        if self.step == step:
            self._weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the best state."""
        if trainer.global_step == trainer.max_steps:  # an interrupted fit continues later
            pl_module.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores and the best weights so far."""
        return {"points": [list(point) for point in self.points], "weights": self._weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the scores and the best weights of the fit being resumed."""
        self.points = [(int(step), float(score)) for step, score in state_dict["points"]]
        self._weights = {str(name): torch.as_tensor(value) for name, value in state_dict["weights"].items()}
