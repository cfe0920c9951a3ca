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
    """Keeps the weights with the best score of all validations; ties go to the later step.

    Its state is part of the checkpoint, so that a resumed fit makes the same choice as an uninterrupted one.
    (Lightning's ``ModelCheckpoint(monitor=...)`` deletes the file of the best so far when it writes a better one; a fit
    that is killed then, and resumed from an older checkpoint, is left with neither.)

    Args:
        score: returns the score of the last validation, higher is better; may be NaN, which never wins.
    """

    def __init__(self, score: Callable[[], float]) -> None:
        self._score = score
        self.points: list[tuple[int, float]] = []
        self._weights: dict[str, Tensor] = {}

    @property
    def step(self) -> int:
        """Step whose state is kept; 0 before the first validation."""
        return max(self.points, key=lambda point: (point[1], point[0]))[0] if self.points else 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        step, score = trainer.global_step, self._score()
        self.points.append((step, float("-inf") if math.isnan(score) else score))
        if self.step == step:
            self._weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}

    def restore(self, module: LightningModule) -> None:
        """Load the best weights into ``module``."""
        module.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores and the best weights so far."""
        return {"points": [list(point) for point in self.points], "weights": self._weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the scores and the best weights of the fit being resumed."""
        self.points = [(int(step), float(score)) for step, score in state_dict["points"]]
        self._weights = {str(name): torch.as_tensor(value) for name, value in state_dict["weights"].items()}
