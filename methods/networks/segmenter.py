"""Segmentation network of encoder and decoder: images or cached features in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.backbones import DEPTH
from tissuebench.methods.networks.decoders import TokensDPT, build_decoder
from tissuebench.methods.networks.encoded import Encoded
from tissuebench.methods.networks.encoder import ImageEncoder
from tissuebench.methods.networks.initial_weights import initial_weights
from tissuebench.methods.networks.settings import NetworkSettings


class Segmenter(ImageEncoder):
    """Pretrained encoder with a segmentation decoder.

    Called with images (B, 3, H, W), uint8 or float in 0..1, or with the tuple that ``encode`` returned for them;
    returns logits (B, K, H, W). Images whose sides are not multiples of ``multiple`` are padded by ``encode``, and the
    logits are cropped: to the size of ``Encoded``, or of a tile for maps that are a plain tuple.

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
            super().__init__(settings)
            self.neck, self.decoder, self.head = build_decoder(settings, self.channels, self.is_tokens, n_classes)
        self.tile_px = tile_px

    def decoded(self, features: Sequence[Tensor]) -> Tensor:
        """Return the decoder output (B, C, h, w) for the maps of ``encode``; the head turns it into logits."""
        maps = list(features) if self.neck is None else cast("list[Tensor]", self.neck(features))
        if isinstance(self.decoder, TokensDPT):
            return cast("Tensor", self.decoder(maps))
        # The other decoders index their maps from the image on: those that they skip are empty, of the right size.
        deepest = maps[-1]
        count, _, height, width = deepest.shape  # not len(), which an export would take for a constant
        skipped = [
            deepest.new_empty((count, 0, height * 2**halvings, width * 2**halvings))
            for halvings in range(DEPTH, len(maps) - 1, -1)
        ]
        return cast("Tensor", self.decoder(skipped + maps))

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, K, H, W) of the padded images, not cropped."""
        return self.classify(self.decoded(features), features)

    def classify(self, decoded: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Return the logits, as ``decode``, from the output of ``decoded`` for ``features``."""
        layers = list(self.head)
        last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
        logits = decoded
        for place, layer in enumerate(layers):
            logits = layer(logits)
            if place == last:
                # Interpolation, and the losses' sums, are much faster on contiguous planes for a handful of classes.
                logits = logits.contiguous()
        size = tuple(side * self.strides[-1] for side in features[-1].shape[-2:])
        if logits.shape[-2:] != size:
            logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits

    def features_of(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps that the decoder reads: encoded images, or the cached features as float32."""
        return self.encode(inputs) if isinstance(inputs, Tensor) else tuple(feature.float() for feature in inputs)

    def cropped(self, logits: Tensor, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return the logits without the padding of the images."""
        if isinstance(inputs, Tensor | Encoded):
            height, width = inputs.size if isinstance(inputs, Encoded) else inputs.shape[-2:]
            return logits[..., :height, :width]
        edge = self.tile_px
        if edge is None or tuple(logits.shape[-2:]) != (edge + -edge % self.multiple,) * 2:
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
