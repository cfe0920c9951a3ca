"""Cross-entropy to several masks of one image at once (Han et al., Med. Image Anal. 80, 102487, 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor, distributed

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.pixel_nll import pixel_nll
from tissuebench.methods.losses.pooling import pooled

_OFFICIAL_LOGIT = 100.0


class MultiTarget(StrEnum):
    """Treatment of ignored pixels: left out (``valid``, recommended), or a class of their own (``official``)."""

    VALID = "valid"
    OFFICIAL = "official"


def multi_target_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Sequence[float], form: MultiTarget = MultiTarget.VALID
) -> Tensor:
    """Weighted sum of the cross-entropies to L masks, with one softmax for all.

    ``valid``: ``sum over l of w_l / |V_l| sum over V_l of -log softmax(z)_{y_l}``, V_l the pixels that mask l does not
    ignore.

    ``official``: ``1/B sum over l of w_l / (B H W) sum over all pixels of -log softmax(z, e)_{y_l}``. Ignored pixels
    (white glass) form class K, whose logit e is not an output of the network: 100 where the last mask ignores the
    pixel, else 0. White pixels thus get almost no gradient but count in the mean, all others compete with a constant
    logit of 0, and the mean is divided by the batch size a second time.

    B and V_l are those of the whole batch, possibly spread over several processes.

    Args:
        logits: (B, K, H, W); evaluated in float32 or wider.
        targets: (B, L, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``, the deepest layer last.
        weights: w, one per layer, in the order of ``targets``; 0.2, 0.2, 0.6 in the paper.
        form: ``valid`` or ``official``.

    Returns:
        () of the logits' dtype, at least float32.

    Raises:
        ValueError: shapes or the number of weights do not match.

    Examples:
        >>> logits, targets = torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.int64)
        >>> round(multi_target_cross_entropy(logits, targets, weights=(0.2, 0.2, 0.6)).item(), 4)  # log 4
        1.3863
    """
    if logits.ndim != 4 or targets.ndim != 4 or targets[:, 0].shape != logits[:, 0].shape:
        shapes = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"logits must be (B, K, H, W) and targets (B, L, H, W), not {shapes}")
    if len(weights) != targets.shape[1]:
        raise ValueError(f"{len(weights)} weights for {targets.shape[1]} layers of targets")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    w = torch.tensor(weights, dtype=logits.dtype).to(logits.device, non_blocking=True)
    if form is MultiTarget.VALID:
        totals = _totals(logits.log_softmax(dim=1), targets)
        counts = (targets != IGNORE_LABEL).sum(dim=(0, 2, 3))
        return (w * pooled(totals, counts)).sum()
    ignored = targets == IGNORE_LABEL
    extra = ignored[:, -1:].to(logits.dtype) * _OFFICIAL_LOGIT
    targets = targets.masked_fill(ignored, logits.shape[1])
    totals = _totals(torch.cat([logits, extra], dim=1).log_softmax(dim=1), targets)
    mean = pooled((w * totals).sum(), targets[:, 0].numel())
    return mean / _tiles_of_all_processes(logits)


def _totals(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the sums (L,) of -log p over the pixels that each layer does not ignore."""
    return torch.stack(
        [
            # not a single gather: on a GPU the layers' gradients would be summed in nondeterministic order
            pixel_nll(log_probabilities, layer, "sum")
            for layer in targets.unbind(dim=1)
        ]
    )


def _tiles_of_all_processes(logits: Tensor) -> Tensor:
    tiles = torch.full((), len(logits), device=logits.device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(tiles)
    return tiles.clamp(min=1)
