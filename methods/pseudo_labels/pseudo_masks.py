"""Pseudo-masks of class ids from activation maps and tile tags (Han et al., Med. Image Anal. 80, 102487, 2022)."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from tissuebench.datasets.types import IGNORE_LABEL

_ROUNDING = 1e-5
"""Relative tolerance: differences up to this share of the largest absolute value count as zero."""


class Scale(StrEnum):
    """Scaling of a tile's maps to 0..1: over all classes together (published), or separately per class."""

    JOINT = "joint"
    PER_CLASS = "per_class"


class Absent(StrEnum):
    """Treatment of classes without a tag.

    ``excluded``: they have no score. ``zero``: score 0, as in the official code, where a present class that also scores
    0 loses to an absent one of lower index.
    """

    EXCLUDED = "excluded"
    ZERO = "zero"


def min_max(cams: Tensor, scale: Scale) -> Tensor:
    """Return ``(x - min) / (max - min)`` over all classes of a tile or per class; 0 where all x are equal.

    "Equal" allows for rounding: enlarging a constant map leaves relative differences of about 1e-7, which must not be
    scaled up to 0..1.

    Args:
        cams: (B, K, H, W) float.
        scale: whether minimum and maximum are taken over all classes and pixels, or over the pixels of each class.

    Returns:
        (B, K, H, W) in 0..1.
    """
    over = (1, 2, 3) if scale is Scale.JOINT else (2, 3)
    low, high = cams.amin(dim=over, keepdim=True), cams.amax(dim=over, keepdim=True)
    span, size = high - low, torch.maximum(low.abs(), high.abs())
    is_flat = span <= _ROUNDING * size
    return (cams - low) / span.masked_fill(is_flat, torch.inf)


def restricted_argmax(scores: Tensor, tags: Tensor, absent: Absent = Absent.EXCLUDED) -> Tensor:
    """Return the class with the highest score among those present; the lowest index wins ties.

    Args:
        scores: (B, K, H, W), in 0..1 for ``Absent.ZERO``.
        tags: (B, K) bool, classes present in each tile.
        absent: treatment of the other classes.

    Returns:
        (B, H, W) uint8; ``IGNORE_LABEL`` everywhere in a tile without tags.
    """
    score_of_absent = -torch.inf if absent is Absent.EXCLUDED else 0.0
    # max is much faster than argmax over the channels of NCHW
    best = scores.masked_fill(~tags[:, :, None, None], score_of_absent).max(dim=1).indices
    return _ignored_without_tags(best, tags)


def shared_threshold(cams: Tensor, tags: Tensor, shared: Tensor, threshold: float) -> Tensor:
    """Return shared classes (stroma, glass) where confident, diagnosis-dependent ones elsewhere (not published).

    Each class is scaled to 0..1 separately. Where the best present shared class scores more than ``threshold`` it wins;
    elsewhere the best present diagnosis-dependent class wins. If a tile has tags of one group only, the best of these
    wins.

    Args:
        cams: (B, K, H, W) float, any scale.
        tags: (B, K) bool, classes present in each tile.
        shared: (K,) bool, classes that no diagnosis rules out.
        threshold: in 0..1.

    Returns:
        (B, H, W) uint8; ``IGNORE_LABEL`` everywhere in a tile without tags.
    """
    scores = min_max(cams, Scale.PER_CLASS)
    best_shared = scores.masked_fill(~(tags & shared)[:, :, None, None], -torch.inf).max(dim=1)
    best_other = scores.masked_fill(~(tags & ~shared)[:, :, None, None], -torch.inf).max(dim=1)
    has_other = (tags & ~shared).any(dim=1)[:, None, None]
    best = torch.where((best_shared.values > threshold) | ~has_other, best_shared.indices, best_other.indices)
    return _ignored_without_tags(best, tags)


def agreement(masks: Tensor) -> Tensor:
    """Return the class where the masks of all layers agree, ``IGNORE_LABEL`` elsewhere.

    Args:
        masks: (B, L, H, W) integer.

    Returns:
        (B, H, W) of the same dtype.
    """
    first = masks[:, 0]
    return torch.where((masks == first[:, None]).all(dim=1), first, torch.full_like(first, IGNORE_LABEL))


def fill(tags: Tensor, rarity: Tensor) -> Tensor:
    """Return the rarest class of each tile, to be used for the whole tile; needs no classifier.

    Args:
        tags: (B, K) bool, classes present in each tile.
        rarity: (K,) integer, number of tiles with the tag; the lowest count wins, at ties the lowest index.

    Returns:
        (B,) uint8; ``IGNORE_LABEL`` for a tile without tags.
    """
    counts = rarity.expand(tags.shape).masked_fill(~tags, torch.iinfo(rarity.dtype).max)
    return _ignored_without_tags(counts.min(dim=1).indices, tags)


def _ignored_without_tags(classes: Tensor, tags: Tensor) -> Tensor:
    tagged = tags.any(dim=1).view(-1, *[1] * (classes.ndim - 1))
    return torch.where(tagged, classes, IGNORE_LABEL).to(torch.uint8)
