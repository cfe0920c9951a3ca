"""Soft Dice loss (Milletari et al. 2016, 3DV): how much of what is predicted and of what is labelled overlaps."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from tissuebench.datasets.types import IGNORE_LABEL

_SMOOTH = 1e-5


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over all K classes of ``class_dice_losses``, background and absent classes as well.

    The official code of ACTION (You et al., IPMI 2023) adds it to the cross-entropy, .5 each.

    Args:
        logits: (B, K, H, W); evaluated in float32 at least.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.

    Returns:
        () of the logits' type, float32 for narrower ones; 0 without a labelled pixel, still connected to the graph.

    Raises:
        ValueError: shapes do not fit.
    """
    return class_dice_losses(logits, masks).mean()


def class_dice_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """``1 - (2 sum p_c y_c + s) / (sum p_c^2 + sum y_c^2 + s)``, s = 1e-5, p = softmax(logits), y_c = [masks = c].

    Sums go over the labelled pixels of the whole batch, which several processes may share: all of them get its value,
    and gradients of which the mean over the processes is its gradient. All must call it equally often. Ignored pixels
    leave all three sums; the official code has none.

    Args:
        logits: as of ``soft_dice_loss``.
        masks: likewise.

    Returns:
        (K,), one a class; near 1 for a class that is predicted and absent.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.ndim != 4 or masks.shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) and masks (B, H, W), not {shapes}")
    labelled = (masks != IGNORE_LABEL)[:, None]
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1) * labelled
    classes = torch.arange(logits.shape[1], device=masks.device).view(1, -1, 1, 1)
    y = (masks[:, None] == classes).to(p.dtype)
    sums = torch.stack([(p * y).sum(dim=(0, 2, 3)), p.square().sum(dim=(0, 2, 3)), y.sum(dim=(0, 2, 3))])
    overlap, predicted, present = _over_processes(sums).unbind()
    return 1 - (2 * overlap + _SMOOTH) / (predicted + present + _SMOOTH)


def _over_processes(sums: Tensor) -> Tensor:
    """The sum over W processes; its gradient is W times that of this process's part, as gradients are averaged."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return sums
    everywhere = sums.detach().clone()
    distributed.all_reduce(everywhere)
    weighted: Tensor = everywhere + distributed.get_world_size() * (sums - sums.detach())
    return weighted
