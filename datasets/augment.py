"""Training augmentation that is safe for H&E: right angles and flips, and mild colour changes, on the device."""

from __future__ import annotations

from functools import lru_cache

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

N_ORIENTATIONS = 8


class AugmentSettings(BaseModel):
    """Strength of the augmentation. ``color`` 0 switches colour changes off; ``hue`` is in turns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    color: float = Field(0.2, ge=0, le=0.9)
    hue: float = Field(0.03, ge=0, le=0.5)


def orient(tensor: Tensor, orientation: int) -> Tensor:
    """One of the eight symmetries of the square, on the last two axes: ``orientation`` = quarter turns + 4 * flip."""
    turned = torch.rot90(tensor, orientation % 4, dims=(-2, -1))
    return turned.flip(-1) if orientation >= 4 else turned


def orient_each(batch: Tensor, orientations: Tensor) -> Tensor:
    """``orient`` a (B, ..., S, S) batch, each sample its own way."""
    result = torch.empty_like(batch)
    for orientation in range(N_ORIENTATIONS):
        chosen = (orientations == orientation).to(batch.device)
        if chosen.any():
            result[chosen] = orient(batch[chosen], orientation)
    return result


def augment(images: Tensor, seed: int, settings: AugmentSettings) -> tuple[Tensor, Tensor]:
    """Augment a batch; the same seed gives the same result whatever was drawn before.

    Args:
        images: (B, 3, S, S) uint8.
        seed: of this batch.
        settings: strength.

    Returns:
        (B, 3, S, S) float32 in 0..1, and the orientation of each sample, (B,) int64, to apply to labels.
    """
    generator = torch.Generator().manual_seed(seed)
    orientations = torch.randint(N_ORIENTATIONS, (images.shape[0],), generator=generator)
    turned = orient_each(images, orientations).float().div_(255)
    if settings.color or settings.hue:
        cuda = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            turned = _colour(settings.color, settings.hue)(turned).clamp_(0, 1)
    return turned, orientations


@lru_cache(maxsize=8)
def _colour(strength: float, hue: float) -> nn.Module:
    from kornia.augmentation import ColorJiggle

    module: nn.Module = ColorJiggle(strength, strength, strength, hue, same_on_batch=False, p=1.0)
    return module
