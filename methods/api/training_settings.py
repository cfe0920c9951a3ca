"""Training settings: length, batches and optimiser, of a plan for all its methods or of one stage for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from tissuebench.common.settings import Settings

_Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(StrEnum):
    """Optimiser of ``torch.optim``; weight decay is decoupled in AdamW, an L2 penalty in the other two."""

    ADAMW = "adamw"
    ADAM = "adam"
    SGD = "sgd"


class RateSchedule(StrEnum):
    """Learning-rate schedule over the steps, with the scheduler of ``torch.optim.lr_scheduler`` that computes it.

    ``one_cycle`` (OneCycleLR): 5 % warm-up from 1/25 of the rate, then cosine to 0. ``polynomial`` (PolynomialLR):
    ``(1 - step / steps)^power``, common in published code. ``cosine`` (CosineAnnealingLR): half a cosine to 0.
    ``milestones`` (MultiStepLR): drops at milestones. ``constant`` (ConstantLR).
    """

    ONE_CYCLE = "one_cycle"
    POLYNOMIAL = "polynomial"
    COSINE = "cosine"
    MILESTONES = "milestones"
    CONSTANT = "constant"


class Sampling(StrEnum):
    """Order in which streams draw their tiles.

    ``balanced``: classes, or cases, equally often, with replacement. ``uniform``: tiles equally often, with
    replacement. ``shuffled``: every tile once per epoch in random order, as by ``DataLoader(shuffle=True)``.
    """

    BALANCED = "balanced"
    UNIFORM = "uniform"
    SHUFFLED = "shuffled"


class TrainingSettings(Settings):
    """Length, batches and optimiser of a training.

    Attributes:
        steps: optimiser steps; as shared settings of a plan, those of the last stage, equal for all methods.
        epochs: passes over the tiles, in place of ``steps``: ``epochs * ceil(tiles / batch_size)`` steps, where the
            tiles are those that carry the labels of the budget, or else those of all training patients.
        drop_last: whether an epoch is rounded down to whole batches (``DataLoader(drop_last=True)``), but at least one.
        batch_size: tiles per step of each stream.
        sampling: order in which the tiles of a stream are drawn.
        optimizer: optimiser.
        learning_rate: learning rate; of the encoder, if ``head_rate`` is not 1.
        head_rate: rate of all other parameters relative to the encoder's.
        weight_decay: weight decay of all parameters.
        betas: decay of both moments (``adamw``, ``adam``).
        momentum, nesterov: momentum, and whether it is Nesterov's (``sgd``).
        rate_schedule: learning-rate schedule over the steps.
        power: exponent of ``polynomial``.
        cycle_momentum: whether momentum (``sgd``) or the first beta falls to .85 and rises to .95 again while the rate
            of ``one_cycle`` rises and falls, the default of torch.
        milestones: shares of the steps at which the rate drops (``milestones``).
        drop: factor by which it drops.
        gradient_clip: maximum norm of the gradient; null does not clip.
        selection_share: share of the bought patients held out from training to select the checkpoint by their mIoU;
            their masks are part of the budget, hence paid for. 0 selects nothing and keeps the last state.
        selection_every: steps between two evaluations on these patients.
        deterministic: whether to use deterministic algorithms only; null, the default, on CPUs. On GPUs ``true`` makes
            repetitions on the same kind of card equal to the last bit, at the cost of speed: kernels are no longer
            chosen by trying (``cudnn.benchmark``), and some are slower. Never compares across kinds of devices.
        compile: whether to ``torch.compile`` the network (GPU: takes minutes, worthwhile for long trials only).

    Examples:
        >>> sgd = TrainingSettings(optimizer="sgd", momentum=0.9, rate_schedule="polynomial", epochs=20, batch_size=20)
        >>> sgd.resolved(n_tiles=130).steps
        140
    """

    displaces: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "steps": ("epochs", "drop_last"),
        "epochs": ("steps",),
        "optimizer": ("betas", "momentum", "nesterov", "cycle_momentum"),
        "rate_schedule": ("power", "cycle_momentum", "milestones", "drop"),
    }
    """Settings that say how another one is meant: whoever sets the latter anew does not inherit the former."""

    steps: int = Field(2000, ge=1)
    epochs: float | None = Field(None, gt=0)
    drop_last: bool = False
    batch_size: int = Field(8, ge=1)
    sampling: Sampling = Sampling.BALANCED
    optimizer: Optimizer = Optimizer.ADAMW
    learning_rate: float = Field(1e-3, gt=0)
    head_rate: float = Field(1.0, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False
    rate_schedule: RateSchedule = RateSchedule.ONE_CYCLE
    power: float = Field(0.9, gt=0)
    cycle_momentum: bool = False
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    drop: float = Field(0.1, gt=0, lt=1)
    gradient_clip: float | None = Field(1.0, gt=0)
    selection_share: float = Field(0.0, ge=0, le=0.5)
    selection_every: int = Field(100, ge=1)
    deterministic: bool | None = None
    compile: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse settings without effect, which would otherwise look as if they had one."""
        defaults = type(self).model_fields
        sgd, cycle = self.optimizer is Optimizer.SGD, self.rate_schedule is RateSchedule.ONE_CYCLE
        without_effect = {
            "drop_last": self.epochs is None,
            "betas": sgd,
            "momentum": not sgd,
            "nesterov": not self.momentum,
            "power": self.rate_schedule is not RateSchedule.POLYNOMIAL,
            "cycle_momentum": not cycle or (sgd and not self.momentum),
            "milestones": self.rate_schedule is not RateSchedule.MILESTONES,
            "drop": self.rate_schedule is not RateSchedule.MILESTONES,
        }
        for name, unused in without_effect.items():
            if unused and getattr(self, name) != defaults[name].default:
                momentum = f", momentum {self.momentum:g}" if sgd else ""
                raise ValueError(
                    f"{name} has no effect with optimizer {self.optimizer}{momentum} and rate_schedule "
                    f"{self.rate_schedule}: leave it out, or change these"
                )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {', '.join(map(str, self.milestones))}: they must increase")
        return self

    def resolved(self, n_tiles: int) -> Self:
        """Return the settings with the steps that ``epochs`` amounts to, if these are given, for this many tiles."""
        if self.epochs is None:
            return self
        batches = n_tiles / self.batch_size
        in_an_epoch = max(1, math.floor(batches) if self.drop_last else math.ceil(batches))
        return self.model_copy(update={"steps": math.ceil(self.epochs * in_an_epoch)})
