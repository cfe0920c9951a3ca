"""Supervised loss for methods whose paper uses a different one than this benchmark."""

from __future__ import annotations

from enum import StrEnum

from torch import Tensor

from tissuebench.methods.api.method import masked_cross_entropy
from tissuebench.methods.losses.dice import soft_dice_loss


class SupervisedLoss(StrEnum):
    """Loss on tiles with masks: ``cross_entropy``, as in all methods, or its mean with soft Dice, as published."""

    CROSS_ENTROPY = "cross_entropy"
    CROSS_ENTROPY_DICE = "cross_entropy_dice"

    def of(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the loss of logits (B, K, H, W) and masks (B, H, W) int64."""
        entropy = masked_cross_entropy(logits, masks)
        return entropy if self is SupervisedLoss.CROSS_ENTROPY else 0.5 * (entropy + soft_dice_loss(logits, masks))
