"""Cross-entropy to a teacher's labels, with each image weighted by the teacher's confidence.

Introduced by ReCo (Liu et al., ICLR 2022) and adopted by ACTION (You et al., IPMI 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pixel_nll import pixel_nll
from tissuebench.methods.losses.pooling import pooled

STRONG_THRESHOLD = 0.97
"""Published confidence threshold."""


def confident_share(confidence: Tensor, valid: Tensor, threshold: float = STRONG_THRESHOLD) -> Tensor:
    """Return ``w_n = #{pixels of image n: confidence >= threshold} / #{valid pixels of image n}``; 0 if none is valid.

    As published, the numerator does not check ``valid``: the ignored pixels there are padding with confidence 0. If
    ignored pixels have a confidence, set it to 0 first, or the share can exceed 1.

    Args:
        confidence: (B, H, W) float, the teacher's largest probability.
        valid: (B, H, W) bool.
        threshold: .97 as published.

    Returns:
        (B,) float32, or float64 if the confidence is float64.

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
    """Cross-entropy to pseudo-labels, weighted per image by ``confident_share``; no threshold per pixel.

    ``1/|P| sum over P of w_n CE``, P the pixels with CE > 0, as published: besides ignored pixels, pixels on which the
    student is certain to the last digit leave the mean. Pixels of images with w = 0 stay in it. P is that of the whole
    batch, possibly spread over several processes; if it is empty the loss is a graph-connected 0.

    Args:
        logits: of the student, (B, K, H, W); evaluated in float32 or wider.
        pseudo_labels: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.
        confidence: (B, H, W) float, the teacher's largest probability; no gradient flows.
        threshold: .97 as published.

    Returns:
        () of the logits' dtype, at least float32.

    Raises:
        ValueError: shapes do not match.

    Examples:
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
        >>> round(weighted_consistency_loss(logits, labels, confidence=torch.ones(2, 8, 8)).item(), 4)  # log 4
        1.3863
    """
    if logits.ndim != 4 or pseudo_labels.shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(pseudo_labels.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) and pseudo-labels (B, H, W), not {shapes}")
    weights = confident_share(confidence, pseudo_labels != IGNORE_LABEL, threshold)
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    loss = pixel_nll(log_p, pseudo_labels, "none")
    return pooled((weights.to(loss.dtype)[:, None, None] * loss).sum(), (loss > 0).sum())
