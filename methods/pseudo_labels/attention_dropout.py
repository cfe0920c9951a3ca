"""Progressive dropout attention (Han et al., Med. Image Anal. 80, 102487, 2022): drop the most activated regions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor


def attention_dropout(
    features: Tensor, head_weights: Tensor, keep: float, divide_by: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return features times the mean activation map over classes, with the peak of each class dropped.

    ``M_k = relu(sum over d of w_kd m_d)``; ``A = 1/C sum over k of M_k [M_k <= keep max over pixels of M_k]``; the
    maximum is that of one sample and one class. Gradients flow through A into features and weights, not through the
    choice of dropped pixels. A is not normalised: even with nothing dropped, features are rescaled by their own map.

    Args:
        features: (B, D, h, w) after the ReLU.
        head_weights: (K, D), current weights of the linear head.
        keep: fraction of the maximum up to which a map is kept, 0..1; 1 drops nothing, 0 everything.
        divide_by: C; None is the number of classes. The official code divides by 4, whatever K.

    Returns:
        Features (B, D, h, w) times A, and A (B, h, w).

    Raises:
        ValueError: wrong shapes, ``keep`` outside 0..1, or ``divide_by`` not positive.
    """
    if features.ndim != 4 or head_weights.ndim != 2 or features.shape[1] != head_weights.shape[1]:
        shapes = f"{tuple(features.shape)} and {tuple(head_weights.shape)}"
        raise ValueError(f"features must be (B, D, h, w) and head_weights (K, D), not {shapes}")
    if not 0 <= keep <= 1:
        raise ValueError(f"keep must be in 0..1, not {keep}")
    if divide_by is not None and divide_by < 1:
        raise ValueError(f"divide_by must be positive, not {divide_by}")
    maps = torch.einsum("kd,bdhw->bkhw", head_weights, features).relu()
    dropped = maps.detach() > keep * maps.detach().amax(dim=(2, 3), keepdim=True)
    divisor = len(head_weights) if divide_by is None else divide_by
    attention = maps.masked_fill(dropped, 0).sum(dim=1) / divisor
    return features * attention[:, None], attention


class DropoutForm(StrEnum):
    """Variant of the dropout schedule: that of the article, or that of the published code."""

    PAPER = "paper"
    OFFICIAL = "official"


_DECAY = {DropoutForm.PAPER: 0.985, DropoutForm.OFFICIAL: 0.98}


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """Schedule by which ``keep`` decreases from epoch to epoch.

    Attributes:
        form: ``paper``: 1 before ``start_epoch`` (attention with nothing dropped), then
            ``max(floor, decay * previous)``. ``official``: no attention before ``start_epoch``, but ``keep`` decreases
                from
            epoch 0 on, for as long as it is above the floor, so that its last value is below it.
        decay: factor per epoch; None is that of the form, 0.985 (paper) or 0.98 (official).
        floor: lower bound, 0.65 in both.
        start_epoch: 3 in both.
    """

    form: DropoutForm
    decay: float | None = None
    floor: float = 0.65
    start_epoch: int = 3

    def __post_init__(self) -> None:
        if not (self.decay is None or 0 < self.decay <= 1) or not 0 <= self.floor <= 1 or self.start_epoch < 0:
            raise ValueError(f"decay must be in 0..1 without 0, floor in 0..1, start_epoch not negative: {self}")

    def keep(self, epoch: int) -> float | None:
        """Return ``keep`` of ``attention_dropout`` in this epoch, counted from 0; None if no attention is applied."""
        decay = _DECAY[self.form] if self.decay is None else self.decay
        if self.form is DropoutForm.PAPER:
            return max(self.floor, decay ** max(0, epoch - self.start_epoch + 1))
        if epoch < self.start_epoch:
            return None
        keep = 1.0
        for _ in range(epoch):
            if keep > self.floor:
                keep *= decay
        return keep
