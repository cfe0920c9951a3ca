"""Pretrained image encoder with a uniform interface: images of any size in, feature maps out."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.backbones import build_backbone
from tissuebench.methods.networks.initial_weights import initial_weights
from tissuebench.methods.networks.settings import EncoderMode, NetworkSettings


class ImageEncoder(nn.Module):
    """Pretrained encoder with the normalisation statistics of its images.

    Args:
        settings: network settings; the decoder determines the number of maps.

    Attributes:
        encoder: the network.
        mean, std: (1, 3, 1, 1), statistics of its training images, in 0..1.
        frozen: whether it is excluded from training.
        channels: channels of the maps that ``encode`` returns, finest (of tokens: shallowest) first; 0 where the
            encoder has no map at a stride.
        strides: image pixels per map pixel, along an edge, for each of these maps.
        multiple: sides of images are padded to multiples of it.
        is_tokens: whether the maps are tokens of several depths of a vision transformer, at one stride.

    Raises:
        ConfigError: see ``build_backbone``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.encoder, spec = build_backbone(settings)
        self.frozen = settings.encoder_mode is EncoderMode.FROZEN
        self.channels, self.strides = self.encoder.channels, self.encoder.strides
        self.multiple, self.is_tokens = self.encoder.multiple, self.encoder.is_tokens
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        if self.frozen:
            self.encoder.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen encoder stays in evaluation mode, as its batch statistics are frozen, too."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def encode(self, images: Tensor, through: bool = False) -> tuple[Tensor, ...]:
        """Return the feature maps that the decoder reads, finest (of tokens: shallowest) first.

        Args:
            images: (B, 3, H, W), uint8 or float in 0..1. If a side is not a multiple of ``multiple``, the last row and
                column are replicated below and to the right, and the maps are those of the padded image.
            through: keep the graph of a frozen encoder as well, for callers that differentiate with respect to its maps
                or the images; each map then depends on those before it. For this, the tokens of all depths but the last
                are returned as the next block reads them, without the final normalisation.

        Returns:
            (B, C, padded H / stride, padded W / stride) for each of ``channels`` and ``strides``.
        """
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        normalised = (scaled - self.mean) / self.std
        pad_y, pad_x = (-side % self.multiple for side in normalised.shape[-2:])
        if pad_y or pad_x:
            normalised = functional.pad(normalised, (0, pad_x, 0, pad_y), mode="replicate")
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (through or not self.frozen)):
            return self.encoder.maps(normalised, through)


def build_encoder(settings: NetworkSettings) -> ImageEncoder:
    """Build the encoder that all methods share, without a decoder; with the initial weights of ``build_segmenter``.

    Raises:
        ConfigError: unknown encoder, or its weights are not available.
    """
    with initial_weights():
        encoder = ImageEncoder(settings)
    return encoder.to(memory_format=torch.channels_last)
