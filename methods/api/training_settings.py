"""Settings of the training that all methods share: steps, batch, optimiser."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from tissuebench.common.settings import Settings


class RateSchedule(StrEnum):
    """``one_cycle``: 5 % warm-up, cosine to 0. ``polynomial``: ``(1 - step / steps)^0.9``, usual in published code."""

    ONE_CYCLE = "one_cycle"
    POLYNOMIAL = "polynomial"


class TrainingSettings(Settings):
    """The step budget and optimiser that all arms share.

    Attributes:
        steps: optimiser steps of the last stage, equal for all arms.
        batch_size: tiles a step of each stream.
        learning_rate, weight_decay: AdamW.
        rate_schedule: what becomes of the rate over the steps.
        gradient_clip: maximum norm of the gradient.
        selection_share: share of the bought patients who are not trained on but choose the checkpoint by their mIoU:
            their masks are inside the budget, hence paid for. 0 chooses nothing and keeps the last state.
        selection_every: steps between two looks at them.
        compile: torch.compile the network (GPU: minutes of warm-up for long trials only).
    """

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    rate_schedule: RateSchedule = RateSchedule.ONE_CYCLE
    gradient_clip: float = Field(1.0, gt=0)
    selection_share: float = Field(0.0, ge=0, le=0.5)
    selection_every: int = Field(100, ge=1)
    compile: bool = False
