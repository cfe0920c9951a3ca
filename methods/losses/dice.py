"""Soft Dice loss (Milletari et al. 2016, 3DV): overlap between predicted and labelled regions."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from tissuebench.datasets.types import IGNORE_LABEL

_SMOOTH = 1e-5


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice loss averaged over all K classes, including the background and absent classes.

    The mean of ``class_dice_losses``. The official code of ACTION (You et al., IPMI 2023) combines it with
    cross-entropy, .5 each.

    Args:
        logits: (B, K, H, W); evaluated in float32 or wider.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.

    Returns:
        () of the logits' dtype, at least float32; a graph-connected 0 without a labelled pixel.

    Raises:
        ValueError: shapes do not match.

    Examples:
        >>> masks = torch.randint(4, (2, 8, 8))
        >>> logits = 100.0 * torch.nn.functional.one_hot(masks, 4).movedim(-1, 1)
        >>> round(soft_dice_loss(logits, masks).item(), 4)
        0.0
    """
    return class_dice_losses(logits, masks).mean()


def class_dice_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice loss of each class.

    ``1 - (2 sum p_c y_c + s) / (sum p_c^2 + sum y_c^2 + s)``, s = 1e-5, p = softmax(logits), y_c = [masks = c]. The
    sums run over the labelled pixels of the whole batch, possibly spread over several processes: all processes get the
    same value, and the average of their gradients is its gradient. All must call it equally often. Ignored pixels are
    left out of all three sums; the official code has none.

    Args:
        logits: as for ``soft_dice_loss``.
        masks: as for ``soft_dice_loss``.

    Returns:
        (K,), one value per class; near 1 for a class that is predicted but absent.

    Raises:
        ValueError: shapes do not match.
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
    """Return the sum over all W processes, with this one's gradient scaled by W because gradients are averaged."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return sums
    everywhere = sums.detach().clone()
    distributed.all_reduce(everywhere)
    weighted: Tensor = everywhere + distributed.get_world_size() * (sums - sums.detach())
    return weighted
