"""Encoder and decoder behind one call: images or cached features in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import cast

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.errors import ConfigError, unknown_name
from tissuebench.methods.networks.weights import packaged_weights
from tissuebench.methods.settings import Decoder, EncoderMode, NetworkSettings, Weights

_DEPTH = 5
_DEEPEST_STRIDE = 2**_DEPTH
_MIN_CHANNELS_PER_GROUP = 8
_FEATURES_USED = {Decoder.FPN: 4, Decoder.UNET: 5}
"""How many of the deepest feature maps (down to stride 32) a decoder reads."""


class Segmenter(nn.Module):
    """A pretrained encoder under a segmentation decoder.

    Called with images (B, 3, H, W), uint8 or float in 0..1, or with the tuple that ``encode`` made of them; returns
    logits (B, K, H, W). Images whose sides are no multiple of 32 are padded by reflection and the logits cropped.
    """

    def __init__(self, settings: NetworkSettings, n_classes: int) -> None:
        super().__init__()
        model, mean, std = _create(settings, n_classes)
        self.encoder: nn.Module = cast("nn.Module", model.encoder)
        self.decoder: nn.Module = cast("nn.Module", model.decoder)
        self.head: nn.Module = cast("nn.Module", model.segmentation_head)
        _widen_norm_groups(self.decoder)
        self.frozen = settings.encoder_mode is EncoderMode.FROZEN
        self._n_features = _FEATURES_USED[settings.decoder]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if self.frozen:
            self.encoder.requires_grad_(False)
            self.encoder.eval()

    def train(self, mode: bool = True) -> Segmenter:
        """A frozen encoder stays in evaluation mode: its batch statistics are part of what is frozen."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps that the decoder reads, finest first, down to stride 32. Sides must be multiples of 32."""
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        normalised = (scaled - cast("Tensor", self.mean)) / cast("Tensor", self.std)
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(normalised)
        return tuple(features[-self._n_features :])

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, H, W) at 32 times the size of the deepest map."""
        height, width = (side * _DEEPEST_STRIDE for side in features[-1].shape[-2:])
        # The decoders index their maps from the input image on; those that they skip may be missing.
        padded = [features[0]] * (_DEPTH + 1 - len(features)) + list(features)
        convolution, *rest = cast("nn.Sequential", self.head)
        # A handful of classes is enlarged, and summed over by losses, much faster plane by plane.
        logits = convolution(self.decoder(padded)).contiguous()
        for layer in rest:
            logits = layer(logits)
        if logits.shape[-2:] != (height, width):
            logits = functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        return cast("Tensor", logits)

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Logits of images, or of the features that stand in for them."""
        if not isinstance(inputs, Tensor):
            return self.decode([feature.float() for feature in inputs])
        height, width = inputs.shape[-2:]
        pad_y, pad_x = -height % _DEEPEST_STRIDE, -width % _DEEPEST_STRIDE
        if pad_y or pad_x:
            inputs = functional.pad(inputs.float(), (0, pad_x, 0, pad_y), mode="replicate").to(inputs.dtype)
        return self.decode(self.encode(inputs))[..., :height, :width]


def build_segmenter(settings: NetworkSettings, n_classes: int) -> Segmenter:
    """The network that all arms share, from the settings.

    Raises:
        ConfigError: unknown encoder, or its weights cannot be had.
    """
    return Segmenter(settings, n_classes).to(memory_format=torch.channels_last)


def _create(
    settings: NetworkSettings, n_classes: int
) -> tuple[nn.Module, tuple[float, float, float], tuple[float, float, float]]:
    if not timm.is_model(settings.encoder):
        near = get_close_matches(settings.encoder, timm.list_models(), n=8, cutoff=0.3)
        raise ConfigError(f"network.encoder: {unknown_name('timm encoder', settings.encoder, near)}")
    width = settings.decoder_channels
    common = {"encoder_name": f"tu-{settings.encoder}", "classes": n_classes, "encoder_depth": _DEPTH}
    weights = "imagenet" if settings.weights is Weights.TIMM else None
    try:
        if settings.decoder is Decoder.FPN:
            model = smp.FPN(
                **common,
                encoder_weights=weights,
                decoder_pyramid_channels=width,
                decoder_segmentation_channels=width,
                decoder_dropout=settings.dropout,
            )
        else:
            channels = tuple(max(8, width >> level) for level in range(_DEPTH))
            model = smp.Unet(**common, encoder_weights=weights, decoder_channels=channels)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"network.encoder {settings.encoder!r}: pretrained weights cannot be loaded "
            f"({str(error).splitlines()[0]}); set network.weights to 'package' or 'none'"
        ) from None
    if settings.weights is Weights.PACKAGE:
        timm_keys = list(timm.create_model(settings.encoder, pretrained=False).state_dict())
        state = packaged_weights(settings.encoder, timm_keys)
        wanted = model.encoder.model.state_dict()
        model.encoder.model.load_state_dict({key: state[key] for key in wanted})
    config = timm.get_pretrained_cfg(settings.encoder)
    return model, tuple(config.mean), tuple(config.std)


def _widen_norm_groups(decoder: nn.Module) -> None:
    """Groups of at least eight channels, in place of the 32 groups that the FPN has at any width.

    A narrow decoder would otherwise normalise single channels and so erase what a whole tile has in common, which is
    what tells kinds of tissue apart.
    """
    for module in decoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = max(1, min(module.num_groups, module.num_channels // _MIN_CHANNELS_PER_GROUP))
