"""Focal loss (Lin et al. 2017): cross-entropy that down-weights well-classified pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pixel_nll import pixel_nll
from tissuebench.methods.losses.pooling import pooled


def focal_loss(logits: Tensor, masks: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss over labelled pixels.

    ``-1/|V| sum over V of (1 - p_y)^gamma log p_y``, V the labelled pixels, p = softmax(logits). V is that of the whole
    batch, possibly spread over several processes; without a labelled pixel the loss is a graph-connected 0.
    GenSelfDiff-HIS (Purma et al., IEEE TMI 2024) adds it to ``structural_similarity_loss`` with weights 1:1; its code
    has (p - 1)^gamma, which is the same for even gamma only.

    Args:
        logits: (B, K, H, W); evaluated in float32 or wider.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.
        gamma: focal exponent, 2 as published; 0 gives cross-entropy; not negative.

    Returns:
        () of the logits' dtype, at least float32.

    Raises:
        ValueError: shapes do not match, or gamma is negative.

    Examples:
        >>> logits, masks = torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> round(focal_loss(logits, masks).item(), 4)  # 1/4 log 2
        0.1733
    """
    if logits.ndim != 4 or masks.shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) and masks (B, H, W), not {shapes}")
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, but is {gamma}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # (B, H, W), 0 where ignored
    loss = pixel_nll(logits.log_softmax(dim=1), masks, "none")
    if gamma:
        rest = -torch.expm1(-loss)  # 1 - p, without cancellation where p is almost 1
        # At p = 1 the power has an infinite slope for gamma < 1, and 0 times that is NaN; the loss is flat there.
        loss = torch.where(rest > 0, rest, torch.ones_like(rest)) ** gamma * loss
    return pooled(loss.sum(), (masks != IGNORE_LABEL).sum())
