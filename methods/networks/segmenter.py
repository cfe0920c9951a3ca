"""Encoder and decoder behind one call: images or cached features in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.encoder import DEEPEST_STRIDE, DEPTH, ImageEncoder, from_settings, load_packaged
from tissuebench.methods.networks.settings import Decoder, NetworkSettings

_MIN_CHANNELS_PER_GROUP = 8


class Segmenter(ImageEncoder):
    """A pretrained encoder under a segmentation decoder.

    Called with images (B, 3, H, W), uint8 or float in 0..1, or with the tuple that ``encode`` made of them; returns
    logits (B, K, H, W). Images whose sides are no multiple of 32 are padded by ``encode`` and the logits cropped.

    Args:
        settings: of the network.
        n_classes: K.
        tile_px: edge of the tiles that cached features stand in for: maps of one padded tile give logits of that
            edge. None leaves the logits of maps as large as the maps say.
    """

    def __init__(self, settings: NetworkSettings, n_classes: int, tile_px: int | None = None) -> None:
        model = _create(settings, n_classes)
        super().__init__(settings, cast("nn.Module", model.encoder))
        self.decoder: nn.Module = cast("nn.Module", model.decoder)
        self.head: nn.Module = cast("nn.Module", model.segmentation_head)
        self.tile_px = tile_px
        _widen_norm_groups(self.decoder)

    def decoded(self, features: Sequence[Tensor]) -> Tensor:
        """What the decoder makes of the maps of ``encode``: (B, C, h, w), which the head turns into logits."""
        # The decoders index their maps from the input image on; those that they skip may be missing.
        padded = [features[0]] * (DEPTH + 1 - len(features)) + list(features)
        return cast("Tensor", self.decoder(padded))

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, H, W) at 32 times the size of the deepest map, not cropped."""
        return self.classify(self.decoded(features), features)

    def classify(self, decoded: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Logits of what ``decoded`` made of ``features``, as ``decode``."""
        height, width = (side * DEEPEST_STRIDE for side in features[-1].shape[-2:])
        convolution, *rest = cast("nn.Sequential", self.head)
        # A handful of classes is enlarged, and summed over by losses, much faster plane by plane.
        logits = convolution(decoded).contiguous()
        for layer in rest:
            logits = layer(logits)
        if logits.shape[-2:] != (height, width):
            logits = functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        return cast("Tensor", logits)

    def features_of(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The maps that the decoder reads, of images or as they were cached."""
        return self.encode(inputs) if isinstance(inputs, Tensor) else tuple(feature.float() for feature in inputs)

    def cropped(self, logits: Tensor, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Logits of the padded images, without what was padded."""
        if isinstance(inputs, Tensor):
            height, width = inputs.shape[-2:]
            return logits[..., :height, :width]
        edge = self.tile_px
        if edge is None or tuple(logits.shape[-2:]) != (edge + -edge % DEEPEST_STRIDE,) * 2:
            return logits
        return logits[..., :edge, :edge]

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Logits of images, or of the features that stand in for them."""
        return self.cropped(self.decode(self.features_of(inputs)), inputs)


def build_segmenter(settings: NetworkSettings, n_classes: int, tile_px: int | None = None) -> Segmenter:
    """The network that all arms share, from the settings; arguments as ``Segmenter``.

    Raises:
        ConfigError: unknown encoder, or its weights cannot be had.
    """
    return Segmenter(settings, n_classes, tile_px).to(memory_format=torch.channels_last)


def _create(settings: NetworkSettings, n_classes: int) -> nn.Module:
    width = settings.decoder_channels
    with from_settings(settings) as (name, weights):
        common = {"encoder_name": name, "encoder_weights": weights, "encoder_depth": DEPTH, "classes": n_classes}
        if settings.decoder is Decoder.FPN:
            model = smp.FPN(
                **common,
                decoder_pyramid_channels=width,
                decoder_segmentation_channels=width,
                decoder_dropout=settings.dropout,
            )
        else:
            channels = tuple(max(8, width >> level) for level in range(DEPTH))
            model = smp.Unet(**common, decoder_channels=channels)
    load_packaged(model.encoder, settings)
    return cast("nn.Module", model)


def _widen_norm_groups(decoder: nn.Module) -> None:
    """Groups of at least eight channels, in place of the 32 groups that the FPN has at any width.

    A narrow decoder would otherwise normalise single channels and so erase what a whole tile has in common, which is
    what tells kinds of tissue apart.
    """
    for module in decoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = max(1, min(module.num_groups, module.num_channels // _MIN_CHANNELS_PER_GROUP))
