"""Gate that removes classes unseen by a tile's classifier (Han et al., Med. Image Anal. 80, 102487, 2022)."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class GateOn(StrEnum):
    """Maps that the gate multiplies: ``probabilities``, as in the article, or ``logits``, as in the official code."""

    PROBABILITIES = "probabilities"
    LOGITS = "logits"


def gate(probabilities: Tensor, scores: Tensor, threshold: float = 0.1) -> Tensor:
    """Return the class distribution of each pixel, restricted to classes whose tile score is above the threshold.

    Closed classes get 0, the others are divided by their sum; where that is 0 they get equal shares. A tile is left
    unchanged if none or all of its classes are open.

    Args:
        probabilities: (B, K, H, W), sum 1 over K.
        scores: (B, K) in 0..1, the classifier's probability that each class occurs in the tile.
        threshold: classes with a score up to and including this are closed; 0.1 in the paper.

    Returns:
        (B, K, H, W), sum 1 over K.
    """
    is_open = (scores > threshold)[:, :, None, None]
    idle = is_open.all(dim=1, keepdim=True) | ~is_open.any(dim=1, keepdim=True)
    mass = probabilities * is_open
    total = mass.sum(dim=1, keepdim=True)
    shares = is_open.to(mass.dtype) / is_open.sum(dim=1, keepdim=True).clamp(min=1)
    gated = torch.where(total > 0, mass / torch.where(total > 0, total, torch.ones_like(total)), shares)
    return torch.where(idle, probabilities, gated)


def official_gate(logits: Tensor, scores: Tensor, threshold: float = 0.1) -> Tensor:
    """Return logits times 0 or 1, as the official code does; for comparison only.

    It fails where all open classes have negative logits: a closed class, at 0, wins the argmax, so the gate adds the
    very classes that it was meant to remove.

    Args:
        logits: (B, K, H, W).
        scores: (B, K) in 0..1.
        threshold: classes with a score up to and including this are closed.

    Returns:
        (B, K, H, W), for an argmax over K.
    """
    return logits * (scores > threshold)[:, :, None, None]
