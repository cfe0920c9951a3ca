"""Layers that treat the parts of a batch in several processes as one batch."""

from __future__ import annotations

import torch
from lightning.pytorch.plugins import LayerSync
from torch import nn

from tissuebench.training.batch_norm import SharedStatistics
from tissuebench.training.dropout import SharedDropout


class WholeBatchLayers(LayerSync):
    """Shares batch statistics and dropout between the processes of a trial.

    Args:
        device: device that the model will be on; it is not there yet when Lightning calls ``apply``.
    """

    def __init__(self, device: torch.device) -> None:
        self._parts = (SharedStatistics(device), SharedDropout())

    def apply(self, model: nn.Module) -> nn.Module:
        """Share from here on.

        Raises:
            ConfigError: a layer cannot be shared.
        """
        for part in self._parts:
            model = part.apply(model)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Stop sharing."""
        for part in self._parts:
            model = part.revert(model)
        return model
