"""Tversky loss (Salehi et al. 2017) over whole tiles, as in the code of GenSelfDiff-HIS."""

from __future__ import annotations

import torch
from torch import Tensor

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pooling import pooled


def tversky_loss(logits: Tensor, masks: Tensor, smooth: float = 1.0) -> Tensor:
    """Tversky loss of whole tiles, over all classes at once.

    Mean over tiles of ``1 - (T + smooth) / (T + beta FP + (1 - beta) FN + smooth)``, T the sum of ``p_y`` over the
    tile's labelled pixels, p = softmax(logits). FP, the probability given to wrong classes, and FN, the probability
    missing from the right ones, are then the same number ``|V| - T``, so that beta, 0.75 in the published code (Purma
    et al., IEEE TMI 2024; not part of the recipe), has no effect and is not offered. For a Tversky loss per class, use
    ``segmentation_models_pytorch.losses.TverskyLoss``.

    Args:
        logits: (B, K, H, W); evaluated in float32 or wider.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``; tiles without a labelled pixel are not counted.
        smooth: 1 as published; above 0.

    Returns:
        () of the logits' dtype, at least float32; a graph-connected 0 without a labelled pixel.

    Raises:
        ValueError: shapes do not match, or smooth is not positive.

    Examples:
        >>> logits, masks = torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> round(tversky_loss(logits, masks).item(), 4)  # 1 - 33/65
        0.4923
    """
    if logits.ndim != 4 or masks.shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) and masks (B, H, W), not {shapes}")
    if smooth <= 0:
        raise ValueError(f"smooth must be above 0, but is {smooth}")
    labelled = masks != IGNORE_LABEL  # (B, H, W)
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
    right = p.gather(1, masks.where(labelled, 0)[:, None])[:, 0]  # (B, H, W)
    hits = (right * labelled).sum(dim=(1, 2))  # (B,)
    size = labelled.sum(dim=(1, 2), dtype=p.dtype)
    losses = 1 - (hits + smooth) / (size + smooth)  # 0 for a tile without labels
    return pooled(losses.sum(), (size > 0).sum())
