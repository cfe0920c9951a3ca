"""Training settings that all methods share: steps, batch size, optimiser."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from tissuebench.common.settings import Settings


class RateSchedule(StrEnum):
    """Learning-rate schedule.

    ``one_cycle``: 5 % warm-up from 1/25 of the rate, then cosine to 0. ``polynomial``: ``(1 - step / steps)^0.9``,
    common in published code.
    """

    ONE_CYCLE = "one_cycle"
    POLYNOMIAL = "polynomial"


class TrainingSettings(Settings):
    """Step budget and optimiser that all methods share.

    Attributes:
        steps: optimiser steps of the last stage, equal for all methods.
        batch_size: tiles per step of each stream.
        learning_rate, weight_decay: of AdamW.
        rate_schedule: learning-rate schedule over the steps.
        gradient_clip: maximum norm of the gradient.
        selection_share: share of the bought patients held out from training to select the checkpoint by their mIoU;
            their masks are part of the budget, hence paid for. 0 selects nothing and keeps the last state.
        selection_every: steps between two evaluations on these patients.
        deterministic: whether to use deterministic algorithms only; null, the default, on CPUs. On GPUs ``true`` makes
            repetitions on the same kind of card equal to the last bit, at the cost of speed: kernels are no longer
            chosen by trying (``cudnn.benchmark``), and some are slower. Never compares across kinds of devices.
        compile: whether to ``torch.compile`` the network (GPU: takes minutes, worthwhile for long trials only).
    """

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    rate_schedule: RateSchedule = RateSchedule.ONE_CYCLE
    gradient_clip: float = Field(1.0, gt=0)
    selection_share: float = Field(0.0, ge=0, le=0.5)
    selection_every: int = Field(100, ge=1)
    deterministic: bool | None = None
    compile: bool = False
