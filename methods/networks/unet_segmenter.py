"""The U-Net of a diffusion as a segmenter: clean images in, logits out, the time constant."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.diffusion_unet import DiffusionUNet

_STRIDE, _HIDDEN = 4, 64


class InputRange(StrEnum):
    """Of images when the U-Net segments: that of pre-training, or the published code's 0..1, which looks accidental."""

    SYMMETRIC = "symmetric"
    UNIT = "unit"


class Head(StrEnum):
    """What the classes are read from.

    ``finest``: the last map alone, by the published head. ``levels``: all maps of the decoder, each channel
    standardised over the batch, side by side at stride 4 (after Baranchuk et al., ICLR 2022). Pre-training teaches the
    coarse levels most, and leaves channels whose constant part is far larger than what differs from image to image.
    """

    FINEST = "finest"
    LEVELS = "levels"


class UNetSegmenter(nn.Module):
    """Logits (B, K, H, W) of images (B, 3, H, W), uint8 or float in 0..1.

    Args:
        unet: with K outputs.
        n_classes: K.
        step: the time.
        input_range: of images.
        head: ``levels`` takes the place of the U-Net's own.
    """

    def __init__(self, unet: DiffusionUNet, n_classes: int, step: float, input_range: InputRange, head: Head) -> None:
        super().__init__()
        self.unet, self._step, self._range = unet, step, input_range
        self.levels: LevelsHead | None = None
        if head is Head.LEVELS:
            unet.final_conv = nn.Sequential()
            self.levels = LevelsHead(unet.feature_channels, n_classes)
            self.levels.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        if self._range is InputRange.SYMMETRIC:
            scaled = scaled * 2 - 1
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        t = torch.full((len(images),), self._step, device=images.device)
        if self.levels is None:
            logits = self.unet(scaled, t)
        else:
            maps = self.unet.features(scaled, t)
            padded = [side * self.unet.feature_strides[0] for side in maps[0].shape[-2:]]
            logits = self.levels(maps, cast("tuple[int, int]", tuple(padded)))
        height, width = images.shape[-2:]
        # Losses and the largest class are found much faster plane by plane.
        return cast("Tensor", logits[..., :height, :width].contiguous())


class LevelsHead(nn.Module):
    """Classes from maps of several resolutions.

    Args:
        channels: of the maps.
        n_classes: K.
    """

    def __init__(self, channels: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(channels))
        self.mix = nn.Sequential(
            nn.Conv2d(sum(channels), _HIDDEN, 1, bias=False),
            nn.BatchNorm2d(_HIDDEN),
            nn.ReLU(),
            nn.Conv2d(_HIDDEN, _HIDDEN, 3, padding=1, bias=False),
            nn.BatchNorm2d(_HIDDEN),
            nn.ReLU(),
            nn.Conv2d(_HIDDEN, n_classes, 1),
        )

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size) of maps that cover an image of that size."""
        grid = tuple(-(-side // _STRIDE) for side in size)
        together = torch.cat([resized(each, cast("tuple[int, int]", grid)) for each in maps], dim=1)
        logits = self.mix(self.norm(together)).contiguous()
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size): means of what is finer, bilinear between what is coarser."""
    if maps.shape[-2] > size[0]:
        return functional.adaptive_avg_pool2d(maps, size)
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
