"""Small U-Net of ACTION (You et al., IPMI 2023, arXiv:2206.02307), and its head for pixel contrast.

Layers have the names of the official code (inherited from PyMIC and SSL4MIS), so its tensors load with
``load_state_dict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 5
_STRIDE = 2 ** (_LEVELS - 1)


@dataclass(frozen=True, slots=True)
class DecoderMaps:
    """Output of a network for images (B, 3, H, W); H' and W' are H and W, rounded up to multiples of 16.

    Attributes:
        logits: (B, K, H, W).
        deepest: deepest encoder map, (B, C_5, H'/16, W'/16).
        decoder: five maps (B, C_i, H'/s, W'/s), s = 16, 8, 4, 2, 1; the first is ``deepest``.
    """

    logits: Tensor
    deepest: Tensor
    decoder: tuple[Tensor, ...]


class _Block(nn.Module):
    """Two times 3x3 convolution, batch norm and leaky ReLU (0.01), with dropout in between."""

    def __init__(self, n_in: int, n_out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv_conv = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1),
            nn.BatchNorm2d(n_out),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(n_out, n_out, 3, padding=1),
            nn.BatchNorm2d(n_out),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.conv_conv(x))


class _Down(nn.Module):
    def __init__(self, n_in: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), _Block(n_in, n_out, dropout))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.maxpool_conv(x))


class _Up(nn.Module):
    """Upsampling step: 1x1 convolution to the skip's channels, 2x interpolation, concatenation with the skip, block."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(n_in, n_out, 1)
        self.conv = _Block(2 * n_out, n_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return cast("Tensor", self.conv(torch.cat((skip, _resized(self.conv1x1(x), skip.shape[-2:])), dim=1)))


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, channels: Sequence[int], dropout: Sequence[float]) -> None:
        super().__init__()
        self.in_conv = _Block(in_channels, channels[0], dropout[0])
        for level, (n_in, n_out) in enumerate(pairwise(channels), start=1):
            self.add_module(f"down{level}", _Down(n_in, n_out, dropout[level]))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for level in self.children():
            maps.append(level(maps[-1]))
        return maps[1:]


class _Decoder(nn.Module):
    def __init__(self, channels: Sequence[int], n_classes: int) -> None:
        super().__init__()
        for level, (n_in, n_out) in enumerate(pairwise(reversed(channels)), start=1):
            self.add_module(f"up{level}", _Up(n_in, n_out))
        self.out_conv = nn.Conv2d(channels[0], n_classes, 3, padding=1)

    def forward(self, encoder: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        *skips, deepest = encoder
        maps = [deepest]
        for level in list(self.children())[:-1]:
            maps.append(level(maps[-1], skips.pop()))
        return self.out_conv(maps[-1]), tuple(maps)


class ActionUNet(nn.Module):
    """U-Net of ACTION; the defaults are the published network, with 1,814,052 parameters for 3 channels and 4 classes.

    Five levels, each at half the resolution of the previous one (max-pooling). The decoder upsamples by interpolation
    with aligned corners: the official code requests transposed convolutions, but its decoder does not pass the option
    on.

    Args:
        n_classes: K.
        in_channels: channels of the images.
        channels: channels of the levels, finest first.
        dropout: dropout rates of the encoder's levels; the decoder has none.

    Raises:
        ValueError: not five levels.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        in_channels: int = 3,
        channels: tuple[int, ...] = (16, 32, 64, 128, 256),
        dropout: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5),
    ) -> None:
        super().__init__()
        if len(channels) != _LEVELS or len(dropout) != _LEVELS:
            raise ValueError(f"channels and dropout are of {_LEVELS} levels, not {channels} and {dropout}")
        self.encoder = _Encoder(in_channels, channels, dropout)
        self.decoder = _Decoder(channels, n_classes)

    def forward(self, images: Tensor) -> DecoderMaps:
        """Return all maps of images (B, C, H, W) float.

        If a side is not a multiple of 16, the last row and column are replicated below and to the right; the logits are
        cropped, the other maps are those of the padded image.
        """
        height, width = images.shape[-2:]
        logits, decoder = self.decoder(self.encoder(_padded(images)))
        return DecoderMaps(logits[..., :height, :width], decoder[0], decoder)

    def deepest(self, images: Tensor) -> Tensor:
        """Return only ``DecoderMaps.deepest``, without the cost of the decoder."""
        return cast("Tensor", self.encoder(_padded(images))[-1])


class RepresentationHead(nn.Module):
    """Head for the pixel contrast: a 3x3 convolution without bias, directly followed by a 1x1 convolution.

    Published for ACTION's third phase, with 2,548,224 parameters; not used for predictions.

    Args:
        channels: channels of the ``stacked`` maps.
        width: D.
    """

    def __init__(self, channels: int = 496, width: int = 512) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return the vectors (B, D, h, w) of all pixels of maps (B, C, h, w)."""
        return cast("Tensor", self.proj(maps))

    def at(self, maps: Tensor, index: Tensor) -> Tensor:
        """Return the vectors of selected pixels, with the same values and gradients as ``forward``.

        They are computed from the pixels' neighbourhoods only, so a loss with detached keys only pays for the graph of
        its queries.

        Args:
            maps: (B, C, h, w).
            index: (N,) int64 into the raster (batch, row, column) of B h w pixels; any order, repeats allowed.

        Returns:
            (N, D).
        """
        height, width = maps.shape[-2:]
        around = torch.arange(-1, 2, device=maps.device)
        # (N, 9), rows before columns as in the kernel
        y = ((index // width % height)[:, None, None] + around[:, None]).expand(-1, 3, 3).flatten(1)
        x = ((index % width)[:, None, None] + around).expand(-1, 3, 3).flatten(1)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        image = (index // (height * width))[:, None]
        numbers = (image * height + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
        # An embedding look-up: the backward pass of the alternatives is slower, or nondeterministic on a GPU.
        patches = functional.embedding(numbers, maps.movedim(1, -1).reshape(-1, maps.shape[1]))
        patches = patches * inside[..., None]
        three, one = cast("nn.Conv2d", self.proj[0]), cast("nn.Conv2d", self.proj[1])
        hidden = functional.linear(patches.flatten(1), three.weight.movedim(1, -1).flatten(1))
        return functional.linear(hidden, one.weight.flatten(1), one.bias)


def stacked(decoder: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Concatenate maps of several resolutions, each interpolated to one size with aligned corners.

    Published at the size of the image; ReCo (Liu et al., ICLR 2022) uses a quarter of it. Interpolation to a smaller
    size skips pixels instead of averaging them.

    Args:
        decoder: maps (B, C_i, h_i, w_i); ``DecoderMaps.decoder``.
        size: h and w. For a padded image, its padded size.

    Returns:
        (B, sum of C_i, h, w).
    """
    return torch.cat([_resized(each, size) for each in decoder], dim=1)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def _padded(images: Tensor) -> Tensor:
    pad_y, pad_x = (-side % _STRIDE for side in images.shape[-2:])
    return functional.pad(images, (0, pad_x, 0, pad_y), mode="replicate") if pad_y or pad_x else images
