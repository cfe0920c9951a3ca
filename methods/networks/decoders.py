"""Decoders of segmentation-models-pytorch, on the maps of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.settings import Decoder, NetworkSettings

_LEVELS = 5
"""Levels of the decoders, from half the image's resolution down to a 32nd of it."""
_PYRAMID = 4
_PATCH = 16
"""Patch for which the DPT computes its scales; others only change the size of the output."""
_MIN_CHANNELS_PER_GROUP = 8


class TokenPyramid(nn.Module):
    """Pyramid of tokens: at four times, twice, once and half the resolution of the tokens (after Li et al., ViTDet).

    Each level reads one depth, the finest the shallowest one, as in a DPT: normalised, projected to ``width`` channels
    and then enlarged by a transposed convolution, or averaged.

    Args:
        channels: channels of the tokens of each depth, shallowest first.
        width: channels of the pyramid.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self._depths = [level * len(channels) // _PYRAMID for level in range(_PYRAMID)]
        resize = (
            nn.ConvTranspose2d(width, width, 4, stride=4),
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.Identity(),
            nn.AvgPool2d(2),
        )
        self.levels = nn.ModuleList(
            nn.Sequential(LayerNorm2d(channels[depth]), nn.Conv2d(channels[depth], width, 1), change)
            for depth, change in zip(self._depths, resize, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the four levels (B, width, h, w), finest first."""
        return [level(features[depth]) for level, depth in zip(self.levels, self._depths, strict=True)]


class TokensDPT(DPTDecoder):  # type: ignore[misc]  # untyped
    """Dense prediction transformer's decoder on patch tokens, without the class token (``readout`` "ignore").

    Args:
        channels: channels of the tokens of four depths, shallowest first.
        width: channels of the fused maps.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__(
            encoder_out_channels=channels,
            encoder_output_strides=(_PATCH,) * len(channels),
            encoder_has_prefix_tokens=False,
            readout="ignore",
            intermediate_channels=(width, 2 * width, 4 * width, 4 * width),
            fusion_channels=width,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the fused map (B, width, h, w), at eight times the resolution of the tokens."""
        return cast("Tensor", super().forward(list(features), [None] * len(features)))


def build_decoder(
    settings: NetworkSettings, channels: Sequence[int], is_tokens: bool, n_classes: int
) -> tuple[nn.Module | None, nn.Module, nn.Sequential]:
    """Build what turns the maps of an encoder into logits.

    Args:
        settings: network settings.
        channels: channels of the encoder's maps.
        is_tokens: whether they are tokens of several depths.
        n_classes: K.

    Returns:
        The pyramid that the decoder reads in place of the maps, if any; the decoder; the head, whose first layer reads
        the decoder's output.

    Raises:
        ConfigError: a DPT with another number of depths than it has levels.
    """
    width = settings.decoder_channels
    neck = TokenPyramid(channels, width) if is_tokens and settings.decoder is not Decoder.DPT else None
    maps = list(channels) if neck is None else [width] * _PYRAMID
    # The decoders index their channels from the input image on; those of levels that they skip do not matter.
    padded = [0] * (_LEVELS + 1 - len(maps)) + maps
    decoder: nn.Module
    head: nn.Sequential
    if settings.decoder is Decoder.FPN:
        decoder = FPNDecoder(
            padded, pyramid_channels=width, segmentation_channels=width, dropout=settings.dropout, merge_policy="add"
        )
        head = SegmentationHead(width, n_classes, kernel_size=1, upsampling=1 if is_tokens else 4)
        _widen_norm_groups(decoder)
    elif settings.decoder is Decoder.UNET:
        widths = tuple(max(8, width >> level) for level in range(_LEVELS))
        decoder = UnetDecoder(padded, widths, n_blocks=_LEVELS)
        head = SegmentationHead(widths[-1], n_classes, kernel_size=3)
    else:
        if len(maps) != _PYRAMID:
            raise ConfigError(f"network.depths: the DPT reads 4 depths of a vision transformer, not {len(maps)}")
        decoder = TokensDPT(maps, width)
        head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(settings.dropout),
            nn.Conv2d(width, n_classes, 1),
        )
    initialize_decoder(decoder)
    initialize_head(head)
    return neck, decoder, head


def _widen_norm_groups(decoder: nn.Module) -> None:
    """Set group norms to at least eight channels per group, instead of the FPN's 32 groups at any width.

    A narrow decoder would otherwise normalise single channels and so erase what a whole tile has in common, which is
    what distinguishes tissue types.
    """
    for module in decoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = max(1, min(module.num_groups, module.num_channels // _MIN_CHANNELS_PER_GROUP))
