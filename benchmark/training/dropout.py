"""Dropout over all processes of a trial, so that their number does not change which units are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from timm.layers import DropPath
from torch import Tensor, distributed, nn

from tissuebench.errors import ConfigError
from tissuebench.methods.api.whole_batch import gathered, own_samples

_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_KNOWN = (nn.Dropout, *_CHANNELS, DropPath)


class SharedDropout:
    """Draws the units to drop for the whole batch, as a single process would, and uses those of this process's samples.

    The generators of all processes must be in the same state. On CPUs the units are those of torch's own layers.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Share the draws from here on.

        Raises:
            ConfigError: a layer draws random numbers in its own way.
        """
        for layer in _random_layers(model):
            if type(layer) not in _KNOWN:
                raise ConfigError(
                    f"{type(layer).__name__} cannot share its draws between processes; use one process per trial"
                )
            layer.__dict__["forward"] = partial(_forward, layer)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Stop sharing."""
        for layer in _random_layers(model):
            layer.__dict__.pop("forward", None)
        return model


def _random_layers(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in model.modules() if _rate(layer) > 0 or isinstance(layer, nn.RReLU))


def _rate(layer: nn.Module) -> float:
    """Return the share that a layer drops: of a class named after it, or with a rate of this name; 0 for others."""
    names = ("p", "drop_prob", "rate") if "drop" in type(layer).__name__.lower() else ("dropout",)
    rates = (getattr(layer, name, None) for name in names)
    return next((float(rate) for rate in rates if isinstance(rate, float | int)), 0.0)


def _forward(layer: nn.Module, x: Tensor) -> Tensor:
    if not layer.training:
        evaluated: Tensor = type(layer).forward(layer, x)
        return evaluated
    drawn_axes = 1 if isinstance(layer, DropPath) else 2 if isinstance(layer, _CHANNELS) else x.ndim
    lengths = [len(part) for part in gathered(x.new_empty(len(x), 0))]
    keep = 1 - _rate(layer)
    # Torch draws in the order of memory.
    last = x.ndim == drawn_axes == 4 and x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    shape = (sum(lengths), *x.shape[1:drawn_axes])
    kept = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order).bernoulli_(keep)
    first = sum(lengths[: distributed.get_rank()])
    own = kept[own_samples(first, len(x))].reshape(len(x), *x.shape[1:drawn_axes], *[1] * (x.ndim - drawn_axes))
    if keep and getattr(layer, "scale_by_keep", True):
        own = own / keep
    return x * own
