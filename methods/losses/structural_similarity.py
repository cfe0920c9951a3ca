"""Cross-entropy weighted by structural differences between prediction and mask (Purma et al., IEEE TMI 2024).

After Zhao et al. 2019 (arXiv 1910.08711), who compare windows; GenSelfDiff-HIS compares whole tiles.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, distributed

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pixel_nll import pixel_nll
from tissuebench.methods.losses.pooling import pooled

_FLAT_MAP = 1e-16  # keeps the square root differentiable for constant maps; masks need no gradient


class SimilarityForm(StrEnum):
    """Form of the weighted cross-entropy: its batch mean (``scalar``, published), or per pixel (Zhao et al.)."""

    SCALAR = "scalar"
    PER_PIXEL = "per_pixel"


def structural_similarity_loss(
    logits: Tensor,
    masks: Tensor,
    beta: float = 0.1,
    stabiliser: float = 0.01,
    form: SimilarityForm = SimilarityForm.SCALAR,
) -> Tensor:
    """Cross-entropy times the structural errors e of the selected pixels and classes, f in {0, 1}.

    With V the labelled pixels, M = sum of f, and e and f from ``structural_errors``:

    ``scalar``: ``(1/M sum over n, c, i of e f) (1/|V| sum over V of -log p_y)``, as in the code of GenSelfDiff-HIS. The
    weights do not say which pixel's cross-entropy counts more, only how much all of them count.

    ``per_pixel``: ``1/M sum over n, c, i of e f (-log p_y)``, closer to Zhao et al.

    Gradients flow through e and the cross-entropy, not through f. M and V are those of the whole batch, possibly spread
    over several processes. A tile without a labelled pixel contributes nothing; if no tile has one, the loss is a
    graph-connected 0.

    Args:
        logits: (B, K, H, W); evaluated in float32 or wider.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.
        beta: fraction of a map's largest error that an error must exceed to be selected, 0..1; 0.1 as published.
        stabiliser: C0, positive; 0.01 as published.
        form: ``scalar`` or ``per_pixel``.

    Returns:
        () of the logits' dtype, at least float32.

    Raises:
        ValueError: shapes do not match, ``beta`` is outside 0..1 or ``stabiliser`` is not positive.

    Examples:
        >>> masks = torch.randint(4, (2, 8, 8))
        >>> logits = 100.0 * torch.nn.functional.one_hot(masks, 4).movedim(-1, 1)
        >>> round(structural_similarity_loss(logits, masks).item(), 4)
        0.0
    """
    if logits.ndim != 4 or masks.shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) and masks (B, H, W), not {shapes}")
    if not 0 <= beta <= 1 or stabiliser <= 0:
        raise ValueError(f"beta must be in 0..1 and stabiliser positive, not {beta} and {stabiliser}")
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    cross_entropy = pixel_nll(log_p, masks, "none")
    errors, selected = structural_errors(log_p.exp(), masks, beta, stabiliser)
    errors, count = errors * selected, selected.sum()
    if form is SimilarityForm.PER_PIXEL:
        return pooled((errors * cross_entropy[:, None]).sum(), count)
    mean_cross_entropy = pooled(cross_entropy.sum(), (masks != IGNORE_LABEL).sum())
    return _product_of_means(mean_cross_entropy, pooled(errors.sum(), count))


def structural_errors(probabilities: Tensor, masks: Tensor, beta: float, stabiliser: float) -> tuple[Tensor, Tensor]:
    """Return the errors of standardised probability maps against their class's mask, and which errors are large.

    ``e = |(y - mu_y + C0) / (sigma_y + C0) - (p - mu_p + C0) / (sigma_p + C0)|`` with mean and unbiased deviation of
    one tile and class over its labelled pixels; ``f = 1[e > beta max over pixels of e]``.

    Args:
        probabilities: p, (B, K, H, W) float.
        masks: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``; y is 1 where the mask is the class.
        beta: as for the loss.
        stabiliser: C0.

    Returns:
        e (B, K, H, W) of p's dtype, and f (B, K, H, W) bool; 0 at ignored pixels and in tiles with fewer than 2
        labelled ones, which have no deviation.
    """
    labelled = (masks != IGNORE_LABEL)[:, None]
    counts = labelled.sum(dim=(2, 3), keepdim=True)

    def standardised(maps: Tensor, flat: float) -> Tensor:
        mean = (maps * labelled).sum(dim=(2, 3), keepdim=True) / counts.clamp(min=1)
        centred = (maps - mean) * labelled
        variance = centred.square().sum(dim=(2, 3), keepdim=True) / (counts - 1).clamp(min=1)
        return (centred + stabiliser) / ((variance + flat).sqrt() + stabiliser)

    classes = torch.arange(probabilities.shape[1], device=masks.device).view(1, -1, 1, 1)
    is_class = (masks[:, None] == classes).to(probabilities.dtype)
    difference = standardised(is_class, 0.0) - standardised(probabilities, _FLAT_MAP)
    errors = difference.abs() * (labelled & (counts > 1))
    bounds = beta * errors.detach().amax(dim=(2, 3), keepdim=True)
    return errors, errors.detach() > bounds


def _product_of_means(one: Tensor, other: Tensor) -> Tensor:
    """Return the product of two means over the whole batch, each given as this process's ``pooled`` value.

    The mean over the processes of the products is not that product, so each process gets it linearised at the common
    means: ``a_r B + A b_r - A B``. The mean of these over the processes has the value and the gradient of A B.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return one * other
    means = torch.stack([one.detach(), other.detach()])
    distributed.all_reduce(means)
    mean_one, mean_other = (means / distributed.get_world_size()).unbind()
    return one * mean_other + mean_one * other - mean_one * mean_other
