"""Stages that keep a moving average of their trained weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from tissuebench.methods.api.stage import SettingsT, Trainable


class Averaging(Trainable[SettingsT]):
    """Stage that updates its weight average within each optimiser step, so that a checkpoint holds both."""

    @property
    @abstractmethod
    def averaged(self) -> tuple[AveragedModel, nn.Module] | None:
        """The average, and the module that it follows; None if there is no average."""

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | Any,  # noqa: ANN401 - Lightning's own wrapper
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Run the optimiser step, then update the average."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.averaged is not None:
            average, module = self.averaged
            average.update_parameters(module)
