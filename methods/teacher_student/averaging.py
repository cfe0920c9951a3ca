"""Stages that keep a moving average of what they train."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from tissuebench.methods.api.stage import SettingsT, Trainable


class Averaging(Trainable[SettingsT]):
    """Averages as part of each step, and not after it, so that a checkpoint holds both."""

    @property
    @abstractmethod
    def averaged(self) -> tuple[AveragedModel, nn.Module] | None:
        """The average, and what it is of; None where there is none."""

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | Any,  # noqa: ANN401 - Lightning's own wrapper
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """The step, then the average's."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.averaged is not None:
            average, module = self.averaged
            average.update_parameters(module)
