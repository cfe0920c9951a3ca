"""The "PolyLog" loss of the GenSelfDiff-HIS code."""

from __future__ import annotations

import torch
from torch import Tensor

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pooling import pooled


def poly_log_loss(logits: Tensor, masks: Tensor, gamma: float = 2.0) -> Tensor:
    """The "PolyLog" loss over labelled pixels, as in the code of GenSelfDiff-HIS.

    ``1/|V| sum over V of (1 - p_y)^gamma |log p_y - log(1 - p_y)|``, V the labelled pixels, p = softmax(logits).
    Evaluated from the margin ``m = z_y - logsumexp of the other logits``, which equals the difference of the
    logarithms: ``sigmoid(-m)^gamma |m|``. The loss is in the published code (Purma et al., IEEE TMI 2024), but not part
    of the recipe. Its minimum, 0, is attained at p_y = 1/2 and again at 1, with a small rise in between, so a pixel
    classified just well enough is not improved further.

    Args:
        logits: (B, K, H, W) with K >= 2; evaluated in float32 or wider.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.
        gamma: 2 as published; at least 1.

    Returns:
        () of the logits' dtype, at least float32; a graph-connected 0 without a labelled pixel.

    Raises:
        ValueError: shapes do not match, or gamma is below 1.

    Examples:
        >>> logits, masks = torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)
        >>> poly_log_loss(logits, masks).item()  # p = 1/2
        0.0
    """
    if logits.ndim != 4 or logits.shape[1] < 2 or masks.shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) with K >= 2 and masks (B, H, W), not {shapes}")
    if gamma < 1:
        raise ValueError(f"gamma must be at least 1, but is {gamma}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labelled = masks != IGNORE_LABEL
    classes = masks.where(labelled, 0)[:, None]  # (B, 1, H, W)
    others = logits.scatter(1, classes, -torch.inf).logsumexp(dim=1)
    margins = logits.gather(1, classes)[:, 0] - others  # (B, H, W)
    losses = torch.sigmoid(-margins) ** gamma * margins.abs()
    return pooled(losses.where(labelled, 0).sum(), labelled.sum())
