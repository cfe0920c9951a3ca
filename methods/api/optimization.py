"""Optimiser and learning-rate schedule of a stage, as its training settings say: the classes of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from tissuebench.errors import ConfigError
from tissuebench.methods.api.training_settings import Optimizer, RateSchedule, TrainingSettings

_ENCODERS = frozenset({"encoder", "backbone"})
_WARM_UP = 0.05


def build_optimizer(module: nn.Module, training: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimiser of all parameters that require a gradient.

    With ``head_rate`` there are two groups, the encoder's parameters and all others; an encoder is a submodule named
    ``encoder`` or ``backbone``. A group without parameters is left out.

    Raises:
        ConfigError: ``head_rate`` for a network without an encoder.
    """
    rate, decay = training.learning_rate, training.weight_decay
    groups = _groups(module, training)
    if training.optimizer is Optimizer.SGD:
        return torch.optim.SGD(
            groups, rate, training.momentum, weight_decay=decay, nesterov=training.nesterov, fused=True
        )
    kind = torch.optim.AdamW if training.optimizer is Optimizer.ADAMW else torch.optim.Adam
    return kind(groups, rate, training.betas, weight_decay=decay, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, training: TrainingSettings) -> lr_scheduler.LRScheduler:
    """Return the learning-rate schedule, to be advanced after every step."""
    steps = training.steps
    match training.rate_schedule:
        case RateSchedule.POLYNOMIAL:
            return lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=training.power)
        case RateSchedule.COSINE:
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        case RateSchedule.MILESTONES:
            drops = [round(share * steps) for share in training.milestones]
            return lr_scheduler.MultiStepLR(optimizer, drops, gamma=training.drop)
        case RateSchedule.CONSTANT:
            return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    return lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps + 1,
        pct_start=_WARM_UP,
        cycle_momentum=training.cycle_momentum,
    )


def _groups(module: nn.Module, training: TrainingSettings) -> Iterable[Any]:
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if training.head_rate == 1:
        return list(trained.values())
    if not any(_ENCODERS & set(name.split(".")) for name, _ in module.named_modules()):
        raise ConfigError(
            f"training.head_rate {training.head_rate:g}: {type(module).__name__} has no encoder whose rate could differ"
        )
    encoder = [parameter for name, parameter in trained.items() if _ENCODERS & set(name.split("."))]
    others = [parameter for name, parameter in trained.items() if not _ENCODERS & set(name.split("."))]
    groups = [(encoder, 1.0), (others, training.head_rate)]
    return [{"params": params, "lr": factor * training.learning_rate} for params, factor in groups if params]
