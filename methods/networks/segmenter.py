"""Segmentation network of encoder and decoder: images or cached features in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.encoder import DEEPEST_STRIDE, DEPTH, ImageEncoder, from_settings, load_packaged
from tissuebench.methods.networks.initial_weights import initial_weights
from tissuebench.methods.networks.settings import Decoder, NetworkSettings

_MIN_CHANNELS_PER_GROUP = 8


class Segmenter(ImageEncoder):
    """Pretrained encoder with a segmentation decoder.

    Called with images (B, 3, H, W), uint8 or float in 0..1, or with the tuple that ``encode`` returned for them;
    returns logits (B, K, H, W). Images whose sides are not multiples of 32 are padded by ``encode``, and the logits are
    cropped.

    Args:
        settings: network settings.
        n_classes: K.
        tile_px: edge length of the tiles that cached features stand for: the maps of one padded tile give logits of
            this size. None leaves the logits of cached features uncropped.
        number: initial weights depend on the seed last set and on this number alone, so that all methods start from the
            same network; a method that needs several of them numbers them.
    """

    def __init__(self, settings: NetworkSettings, n_classes: int, tile_px: int | None = None, number: int = 0) -> None:
        with initial_weights(number):
            model = _create(settings, n_classes)
        super().__init__(settings, cast("nn.Module", model.encoder))
        self.decoder: nn.Module = cast("nn.Module", model.decoder)
        self.head: nn.Module = cast("nn.Module", model.segmentation_head)
        self.tile_px = tile_px
        _widen_norm_groups(self.decoder)

    def decoded(self, features: Sequence[Tensor]) -> Tensor:
        """Return the decoder output (B, C, h, w) for the maps of ``encode``; the head turns it into logits."""
        # The decoders index their maps from the input image on; maps that they skip may be placeholders.
        padded = [features[0]] * (DEPTH + 1 - len(features)) + list(features)
        return cast("Tensor", self.decoder(padded))

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, K, H, W) at 32 times the size of the deepest map, not cropped."""
        return self.classify(self.decoded(features), features)

    def classify(self, decoded: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Return the logits, as ``decode``, from the output of ``decoded`` for ``features``."""
        height, width = (side * DEEPEST_STRIDE for side in features[-1].shape[-2:])
        convolution, *rest = cast("nn.Sequential", self.head)
        # Interpolation, and the losses' sums, are much faster on contiguous planes for a handful of classes.
        logits = convolution(decoded).contiguous()
        for layer in rest:
            logits = layer(logits)
        if logits.shape[-2:] != (height, width):
            logits = functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        return cast("Tensor", logits)

    def features_of(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps that the decoder reads: encoded images, or the cached features as float32."""
        return self.encode(inputs) if isinstance(inputs, Tensor) else tuple(feature.float() for feature in inputs)

    def cropped(self, logits: Tensor, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return the logits without the padding of the images."""
        if isinstance(inputs, Tensor):
            height, width = inputs.shape[-2:]
            return logits[..., :height, :width]
        edge = self.tile_px
        if edge is None or tuple(logits.shape[-2:]) != (edge + -edge % DEEPEST_STRIDE,) * 2:
            return logits
        return logits[..., :edge, :edge]

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return logits of images or cached features."""
        return self.cropped(self.decode(self.features_of(inputs)), inputs)


def build_segmenter(
    settings: NetworkSettings, n_classes: int, tile_px: int | None = None, number: int = 0
) -> Segmenter:
    """Build the network that all methods share; arguments as for ``Segmenter``.

    Raises:
        ConfigError: unknown encoder, or its weights are not available.

    Examples:
        >>> from tissuebench.methods.networks.settings import NetworkSettings, Weights
        >>> network = build_segmenter(NetworkSettings(encoder="resnet18", weights=Weights.NONE), n_classes=4)
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 4, 64, 64])
    """
    return Segmenter(settings, n_classes, tile_px, number).to(memory_format=torch.channels_last)


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
    """Set group norms to at least eight channels per group, instead of the FPN's 32 groups at any width.

    A narrow decoder would otherwise normalise single channels and so erase what a whole tile has in common, which is
    what distinguishes tissue types.
    """
    for module in decoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = max(1, min(module.num_groups, module.num_channels // _MIN_CHANNELS_PER_GROUP))
