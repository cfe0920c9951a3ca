"""Pretrained image encoder with a uniform interface: images of any size in, feature maps out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Self, cast

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.errors import ConfigError, unknown_name
from tissuebench.methods.networks.initial_weights import initial_weights
from tissuebench.methods.networks.packaged_weights import packaged_weights
from tissuebench.methods.networks.settings import Decoder, EncoderMode, NetworkSettings, Weights

DEPTH = 5
DEEPEST_STRIDE = 2**DEPTH
_FEATURES_USED = {Decoder.FPN: 4, Decoder.UNET: 5}
"""Number of deepest feature maps (down to stride 32) that a decoder reads."""


class ImageEncoder(nn.Module):
    """Pretrained encoder with the normalisation statistics of its images.

    Args:
        settings: network settings; the decoder determines the number of maps.
        encoder: encoder of segmentation-models-pytorch, built from ``settings``.

    Attributes:
        encoder: the network.
        mean, std: (1, 3, 1, 1), statistics of its training images, in 0..1.
        frozen: whether it is excluded from training.
        n_features: number of maps that ``encode`` returns.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: NetworkSettings, encoder: nn.Module) -> None:
        super().__init__()
        config = timm.get_pretrained_cfg(settings.encoder)
        self.encoder = encoder
        self.frozen = settings.encoder_mode is EncoderMode.FROZEN
        self.n_features = _FEATURES_USED[settings.decoder]
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        if self.frozen:
            self.encoder.requires_grad_(False)
            self.encoder.eval()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``encode`` returns, finest first; 0 where the encoder has no map at a stride."""
        return tuple(cast("list[int]", self.encoder.out_channels)[-self.n_features :])

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per map pixel, along an edge, for each of these maps."""
        return tuple(2**level for level in range(DEPTH - self.n_features + 1, DEPTH + 1))

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen encoder stays in evaluation mode, as its batch statistics are frozen, too."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def encode(self, images: Tensor, through: bool = False) -> tuple[Tensor, ...]:
        """Return the feature maps that the decoder reads, finest first, down to stride 32.

        Args:
            images: (B, 3, H, W), uint8 or float in 0..1. If a side is not a multiple of 32, the last row and column are
                replicated below and to the right, and the maps are those of the padded image.
            through: keep the graph of a frozen encoder as well, for callers that differentiate with respect to its maps
                or the images.

        Returns:
            (B, C, ceil(H / 32) * 32 / stride, ceil(W / 32) * 32 / stride) for each of ``channels`` and ``strides``.
        """
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        normalised = (scaled - self.mean) / self.std
        pad_y, pad_x = (-side % DEEPEST_STRIDE for side in normalised.shape[-2:])
        if pad_y or pad_x:
            normalised = functional.pad(normalised, (0, pad_x, 0, pad_y), mode="replicate")
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (through or not self.frozen)):
            features = self.encoder(normalised)
        return tuple(features[-self.n_features :])


def build_encoder(settings: NetworkSettings) -> ImageEncoder:
    """Build the encoder that all methods share, without a decoder; with the initial weights of ``build_segmenter``.

    Raises:
        ConfigError: unknown encoder, or its weights are not available.
    """
    with from_settings(settings) as (name, weights), initial_weights():
        encoder = smp.encoders.get_encoder(name, depth=DEPTH, weights=weights)
    load_packaged(encoder, settings)
    return ImageEncoder(settings, encoder).to(memory_format=torch.channels_last)


@contextmanager
def from_settings(settings: NetworkSettings) -> Iterator[tuple[str, str | None]]:
    """Yield the encoder's name and weights for segmentation-models-pytorch, and translate errors of the block.

    Raises:
        ConfigError: unknown encoder, or its weights cannot be downloaded.
    """
    if not timm.is_model(settings.encoder):
        near = get_close_matches(settings.encoder, timm.list_models(), n=8, cutoff=0.3)
        raise ConfigError(f"network.encoder: {unknown_name('timm encoder', settings.encoder, near)}")
    try:
        yield f"tu-{settings.encoder}", "imagenet" if settings.weights is Weights.TIMM else None
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"network.encoder {settings.encoder!r}: pretrained weights cannot be loaded "
            f"({str(error).splitlines()[0]}); set network.weights to 'package' or 'none'"
        ) from None


def load_packaged(encoder: nn.Module, settings: NetworkSettings) -> None:
    """Load the weights of an installed package, if the settings select them; raises as ``packaged_weights``."""
    if settings.weights is not Weights.PACKAGE:
        return
    timm_keys = list(timm.create_model(settings.encoder, pretrained=False).state_dict())
    state = packaged_weights(settings.encoder, timm_keys)
    model = cast("nn.Module", encoder.model)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
