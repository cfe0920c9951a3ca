"""Diffusion U-Net as a segmenter: clean images in, logits out, at a constant time step."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.averaging import averaged
from tissuebench.methods.networks.diffusion_unet import DiffusionUNet

_STRIDE, _HIDDEN = 4, 64


class InputRange(StrEnum):
    """Range of the U-Net's input during segmentation.

    ``symmetric``: -1..1, as in pre-training. ``unit``: 0..1, as in the published code, apparently by accident.
    """

    SYMMETRIC = "symmetric"
    UNIT = "unit"


class Head(StrEnum):
    """Segmentation head of the U-Net.

    ``finest``: the published head, which reads only the last map. ``levels``: reads all maps of the decoder, each
    channel standardised over the batch, concatenated at stride 4 (after Baranchuk et al., ICLR 2022). Pre-training
    teaches the coarse levels most, and leaves channels whose constant part is far larger than the variation between
    images.
    """

    FINEST = "finest"
    LEVELS = "levels"


class UNetSegmenter(nn.Module):
    """Segmenter that returns logits (B, K, H, W) of images (B, 3, H, W), uint8 or float in 0..1.

    Args:
        unet: U-Net with K outputs.
        n_classes: K.
        step: constant time step.
        input_range: range to which the images are scaled.
        head: ``levels`` replaces the U-Net's own head.
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
        """Return logits (B, K, H, W)."""
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
        # Losses and the argmax are much faster on contiguous planes.
        return cast("Tensor", logits[..., :height, :width].contiguous())


class LevelsHead(nn.Module):
    """Segmentation head that reads maps of several resolutions.

    Args:
        channels: channels of the maps.
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
        """Return logits (B, K, *size) from maps that cover an image of this size."""
        grid = tuple(-(-side // _STRIDE) for side in size)
        together = torch.cat([resized(each, cast("tuple[int, int]", grid)) for each in maps], dim=1)
        logits = self.mix(self.norm(together)).contiguous()
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the maps at the given size, (B, C, *size): averaged if finer, bilinearly interpolated if coarser."""
    if maps.shape[-2] > size[0]:
        return averaged(maps, size)
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
