"""Tversky loss (Salehi et al. 2017) of whole tiles, as the code of GenSelfDiff-HIS has it."""

from __future__ import annotations

import torch
from torch import Tensor

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pooling import pooled


def tversky_loss(logits: Tensor, masks: Tensor, smooth: float = 1.0) -> Tensor:
    """Mean over tiles of ``1 - (T + smooth) / (T + beta FP + (1 - beta) FN + smooth)``, over all classes at once.

    T is the sum of ``p_y`` over the tile's labelled pixels, p = softmax(logits). FP, the probability given to wrong
    classes, and FN, what the right ones lack, are then the same number ``|V| - T``, so that beta, 0.75 in the
    published code (Purma et al., IEEE TMI 2024; not part of the recipe), has no effect and is not offered. For
    Tversky loss class by class there is ``segmentation_models_pytorch.losses.TverskyLoss``.

    Args:
        logits: (B, K, H, W); evaluated in float32 at least.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``; tiles without a labelled pixel are not counted.
        smooth: 1 as published; above 0.

    Returns:
        () of the logits' type, float32 for narrower ones; 0, still connected to the graph, where nothing is labelled.

    Raises:
        ValueError: shapes do not fit, or smooth is not positive.
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
