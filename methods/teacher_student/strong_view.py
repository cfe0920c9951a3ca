"""Strong augmentation of the tiles shown to a student; its teacher sees the tiles without it."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tissuebench.common.settings import Later, Settings
from tissuebench.datasets.loading.augment import recolour
from tissuebench.datasets.loading.augment_settings import AugmentSettings, ColorJitter

_SEEDS = 2**31
_COLOR, _BLUR = {"color", "hue", "color_probability", "jitter"}, {"blur", "blur_from", "blur_probability"}


class StrongView(Settings):
    """Strength of the strong view, applied on top of the geometric and mild colour augmentation of all methods.

    Attributes:
        color, hue, blur: strength for images, as in the augmentation of all methods. Published: .25, .25 and 1.15; a
            quarter of the hue circle turns eosin into a colour that no stain has.
        color_probability, blur_probability: share of the tiles that get each. Published: .5.
        blur_from: smallest sigma of the blur. Published code: .15; paper: not stated.
        jitter: formulas of the change of colours. Published code: ``torchvision``; paper: not stated.
        feature_dropout: share of channels that are dropped if cached features replace images, since images are then not
            available (Yang et al., UniMatch, CVPR 2023).
    """

    color: float = Field(0.25, ge=0, le=0.9)
    hue: float = Field(0.05, ge=0, le=0.5)
    blur: float = Field(1.15, ge=0, le=8)
    color_probability: Annotated[float, Later(1.0)] = Field(1.0, ge=0, le=1)
    blur_probability: Annotated[float, Later(1.0)] = Field(1.0, ge=0, le=1)
    blur_from: Annotated[float, Later(0.0)] = Field(0.0, ge=0, le=8)
    jitter: Annotated[ColorJitter, Later(ColorJitter.ADDITIVE)] = Field(ColorJitter.ADDITIVE)
    feature_dropout: float = Field(0.5, ge=0, lt=1)

    def of(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        offset: int = 0,
        total: int | None = None,
        colors: bool = True,
        blurs: bool = True,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the strong view of images (B, 3, H, W), uint8 or float in 0..1, or of features; geometry is unchanged.

        Draws one number from the global generator, which the benchmark seeds for every step: later draws do not depend
        on whether features replace images.

        Args:
            inputs: images, or features of a frozen encoder.
            offset: index of the first sample in the whole batch.
            total: number of samples in the whole batch; by default the inputs are the whole batch.
            colors: whether to change colours.
            blurs: whether to blur, or to drop channels of features.
        """
        seed = int(torch.randint(_SEEDS, ()))
        if isinstance(inputs, Tensor):
            images = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
            chosen = (_COLOR if colors else set()) | (_BLUR if blurs else set())
            settings = AugmentSettings.model_validate({"color": 0, "hue": 0, **self.model_dump(include=chosen)})
            return recolour(images, seed, settings, offset, total)
        if not blurs:
            return inputs
        generator = torch.Generator().manual_seed(seed)
        return tuple(self._dropped(feature, generator, offset, total) for feature in inputs)

    def _dropped(self, feature: Tensor, generator: torch.Generator, offset: int, total: int | None) -> Tensor:
        whole = torch.rand(total or len(feature), feature.shape[1], generator=generator)
        kept = whole[offset : offset + len(feature)] >= self.feature_dropout
        return feature * (kept / (1 - self.feature_dropout)).to(feature)[:, :, None, None]
