"""Negative log-likelihood of labelled pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tissuebench.datasets.types import IGNORE_LABEL


def pixel_nll(log_probabilities: Tensor, labels: Tensor, reduction: Literal["none", "sum"]) -> Tensor:
    """Return ``-log p_y`` of every pixel, 0 where unlabelled, or its sum.

    On GPUs torch sums maps in varying order; where deterministic algorithms are asked for, pixels are passed as rows.

    Args:
        log_probabilities: (B, K, H, W).
        labels: (B, H, W) int64, ``IGNORE_LABEL`` where unlabelled.
        reduction: ``none`` or ``sum``.

    Returns:
        (B, H, W) or ().
    """
    if log_probabilities.is_cuda and torch.are_deterministic_algorithms_enabled():
        return nll_of_rows(log_probabilities, labels, reduction)
    return functional.nll_loss(log_probabilities, labels, ignore_index=IGNORE_LABEL, reduction=reduction)


def nll_of_rows(log_probabilities: Tensor, labels: Tensor, reduction: Literal["none", "sum"]) -> Tensor:
    """Return the same from one row of K numbers per pixel; needs a copy."""
    rows = log_probabilities.movedim(1, -1).flatten(0, -2)
    loss = functional.nll_loss(rows, labels.flatten(), ignore_index=IGNORE_LABEL, reduction=reduction)
    return loss.view_as(labels) if reduction == "none" else loss
