"""Batch statistics over all processes of a trial, so that their number does not change what a network computes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tissuebench.errors import ConfigError

_KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)


class SharedStatistics:
    """Normalises by the mean and variance of the whole batch, as a single process would.

    On GPUs these are torch's own synchronised layers; timm inserts them, as torch's conversion would drop the
    activation that timm's layers contain. On CPUs, which torch's layers do not support, the ``forward`` of the existing
    layers is replaced.

    Args:
        device: device that the model will be on; it is not there yet when Lightning calls ``apply``.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def apply(self, model: nn.Module) -> nn.Module:
        """Share the statistics from here on."""
        if self._device.type == "cuda":
            converted: nn.Module = convert_sync_batchnorm(model)
            return converted
        for norm in _batch_norms(model):
            if type(norm) not in _KNOWN:
                raise ConfigError(
                    f"{type(norm).__name__} cannot share its statistics between processes; use one process per trial"
                )
            norm.__dict__["forward"] = partial(_forward, norm)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Stop sharing. Torch's synchronised layers stay: outside of training they behave like ordinary ones."""
        for norm in _batch_norms(model):
            norm.__dict__.pop("forward", None)
        return model


def _batch_norms(model: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        evaluated: Tensor = type(norm).forward(norm, x)
        return evaluated
    normalised = _normalised(norm, x)
    if isinstance(norm, BatchNormAct2d):
        activated: Tensor = norm.act(norm.drop(normalised))
        return activated
    return normalised


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Normalise like ``torch.nn.functional.batch_norm`` in training, with moments over (B, C, ...) of all processes."""
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    others = [0, *range(2, x.dim())]
    along = [1, -1] + [1] * (x.dim() - 2)
    count = _all_reduced(torch.tensor(x.numel() // x.shape[1], device=x.device))
    mean = _sum_of_all(values.sum(others)) / count
    centred = values - mean.view(along)
    variance = _sum_of_all(centred.square().sum(others)) / count
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
            norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var.dtype), share)
    scaled = centred * torch.rsqrt(variance + norm.eps).view(along)
    if norm.affine:
        scaled = scaled * norm.weight.view(along) + norm.bias.view(along)
    return scaled.to(x.dtype)


def _sum_of_all(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOfAll.apply(tensor)
    return total


class _SumOfAll(torch.autograd.Function):
    """Sum over all processes; since it enters the loss of each, its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        return _all_reduced(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return _all_reduced(gradient)


def _all_reduced(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total
