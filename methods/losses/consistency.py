"""Cross-entropy to a teacher's labels, each image weighted by how sure the teacher is of it.

Of ReCo (Liu et al., ICLR 2022), taken over by ACTION (You et al., IPMI 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pooling import pooled

STRONG_THRESHOLD = 0.97
"""As published."""


def confident_share(confidence: Tensor, valid: Tensor, threshold: float = STRONG_THRESHOLD) -> Tensor:
    """``w_n = #{pixels of image n: confidence >= threshold} / #{valid pixels of image n}``, 0 without a valid pixel.

    As published, the numerator does not look at ``valid``: what is ignored there is padding of confidence 0. Where
    ignored pixels have a confidence it must be set to 0 before, or the share can exceed 1.

    Args:
        confidence: (B, H, W) float, the teacher's largest probability.
        valid: (B, H, W) bool.
        threshold: .97 as published.

    Returns:
        (B,) float32, or float64 if that is the confidence's type.

    Raises:
        ValueError: shapes differ.
    """
    if confidence.ndim != 3 or confidence.shape != valid.shape:
        shapes = f"{tuple(confidence.shape)} and {tuple(valid.shape)}"
        raise ValueError(f"confidence and valid must both be (B, H, W), not {shapes}")
    confidence = confidence.detach().to(torch.promote_types(confidence.dtype, torch.float32))
    sure = (confidence >= threshold).sum(dim=(1, 2))
    return sure.to(confidence.dtype) / valid.sum(dim=(1, 2)).clamp(min=1)


def weighted_consistency_loss(
    logits: Tensor, pseudo_labels: Tensor, confidence: Tensor, threshold: float = STRONG_THRESHOLD
) -> Tensor:
    """``1/|P| sum over P of w_n CE``, P the pixels with CE > 0, w as ``confident_share``; no threshold for a pixel.

    As published: P is where the cross-entropy is not 0, so beside ignored pixels those leave the mean that the student
    is sure of to the last digit. Pixels of images with w = 0 stay in it. P is that of the whole batch, which several
    processes may share; where it is empty the loss is 0, still connected to the graph.

    Args:
        logits: of the student, (B, K, H, W); evaluated in float32 at least.
        pseudo_labels: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.
        confidence: (B, H, W) float of the teacher; without gradient.
        threshold: .97 as published.

    Returns:
        () of the logits' type, float32 for narrower ones.

    Raises:
        ValueError: shapes do not fit.
    """
    if logits.ndim != 4 or pseudo_labels.shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(pseudo_labels.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) and pseudo-labels (B, H, W), not {shapes}")
    weights = confident_share(confidence, pseudo_labels != IGNORE_LABEL, threshold)
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    loss = functional.nll_loss(log_p, pseudo_labels, ignore_index=IGNORE_LABEL, reduction="none")
    return pooled((weights.to(loss.dtype)[:, None, None] * loss).sum(), (loss > 0).sum())
