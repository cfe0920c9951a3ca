"""The strong view of a tile that a student is shown, whose teacher sees the tile as it is."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tissuebench.common.settings import Settings
from tissuebench.datasets.loading.augment import AugmentSettings, recolour

_SEEDS = 2**31


class StrongView(Settings):
    """How strong; both views have the geometry and the mild colours that all arms train with.

    Attributes:
        color, hue, blur: of images, as of the augmentation of all arms. Published: .25, .25 and 1.15 with probability
            .5 each; a quarter of the hue circle turns eosin into something that no stain is.
        feature_dropout: share of channels that are dropped where cached features stand in for images, as images are
            not at hand then (Yang et al., UniMatch, CVPR 2023).
    """

    color: float = Field(0.25, ge=0, le=0.9)
    hue: float = Field(0.05, ge=0, le=0.5)
    blur: float = Field(1.15, ge=0, le=8)
    feature_dropout: float = Field(0.5, ge=0, lt=1)

    def of(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """The view of images (B, 3, H, W), uint8 or float in 0..1, or of features; nothing is moved.

        Draws one number from the global generator, which the benchmark seeds for every step: what is drawn next does
        not depend on whether features stand in for images.
        """
        seed = int(torch.randint(_SEEDS, ()))
        if isinstance(inputs, Tensor):
            images = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
            settings = AugmentSettings(color=self.color, hue=self.hue, blur=self.blur)
            return recolour(images, seed, settings)
        generator = torch.Generator().manual_seed(seed)
        return tuple(self._dropped(feature, generator) for feature in inputs)

    def _dropped(self, feature: Tensor, generator: torch.Generator) -> Tensor:
        kept = torch.rand(feature.shape[:2], generator=generator) >= self.feature_dropout
        return feature * (kept / (1 - self.feature_dropout)).to(feature)[:, :, None, None]
