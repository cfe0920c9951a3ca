"""Noise predictor of GenSelfDiff-HIS (Purma et al., IEEE TMI 2024, arXiv:2309.01487): a time-conditioned U-Net.

Layers have the names of the official code, so its tensors load with ``load_state_dict``. With a different number of
output channels, and ``transfer`` of all but the head, the same network is the paper's segmenter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = "final_conv."
"""Name prefix of the head, which is new for every task: a block without time input and a 1x1 convolution."""

_GROUPS = 8


def sinusoidal_embedding(t: Tensor, size: int) -> Tensor:
    """Return ``[sin(t f_j) | cos(t f_j)]`` with ``f_j = exp(-ln(10^4) j / (size/2 - 1))``, j from 0 to size/2 - 1.

    Args:
        t: (B,) time steps, integer or float.
        size: even, at least 4.

    Returns:
        (B, size) float32.

    Raises:
        ValueError: the size is odd or below 4.
    """
    if size < 4 or size % 2:
        raise ValueError(f"size must be even and at least 4, not {size}")
    half = size // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(steps * (-math.log(10_000) / (half - 1)))
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class _TimeEmbedding(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, t: Tensor) -> Tensor:
        return sinusoidal_embedding(t, self.size)


class _ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm = nn.GroupNorm(_GROUPS, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(self.proj(x)))


class ResnetBlock(nn.Module):
    """Residual block: two times 3x3 convolution, group norm (8 groups) and SiLU, with a time shift in between.

    The time is added to the channels as a shift, without scaling. The shortcut is a 1x1 convolution if the number of
    channels changes.

    Args:
        n_in: input channels.
        n_out: output channels, a multiple of 8.
        time_features: length of the time vector; None for a block without time input.
    """

    def __init__(self, n_in: int, n_out: int, time_features: int | None = None) -> None:
        super().__init__()
        self.mlp = None if time_features is None else nn.Sequential(nn.SiLU(), nn.Linear(time_features, n_out))
        self.block1 = _ResidualBlock(n_in, n_out)
        self.block2 = _ResidualBlock(n_out, n_out)
        self.res_conv = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Return a map (B, n_out, h, w) from a map (B, n_in, h, w) and an optional time vector (B, time_features).

        Raises:
            ValueError: a time is given to a block without time input.
        """
        inner = self.block1(x)
        if time is not None:
            if self.mlp is None:
                raise ValueError("this block was built without a time input")
            inner = inner + self.mlp(time)[:, :, None, None]
        total: Tensor = self.block2(inner) + self.res_conv(x)
        return total


class LinearAttention(nn.Module):
    """Attention with cost linear in the number of pixels, without a norm before it or a residual connection.

    ``out_n = sum over d of q_dn (sum over m of k_dm v_m) / sqrt(head_channels)`` in each head, with q a softmax over
    the channels d of a pixel n and k a softmax over the pixels m, both in float32; then a 1x1 convolution and a group
    norm with one group.

    Args:
        channels: input and output channels.
        heads: H.
        head_channels: D of each head.
    """

    def __init__(self, channels: int, heads: int = 4, head_channels: int = 32) -> None:
        super().__init__()
        self.heads, self.head_channels = heads, head_channels
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_channels, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(heads * head_channels, channels, 1), nn.GroupNorm(1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape as the input, (B, channels, h, w)."""
        # Channels last, matching the channels_last memory layout, so that copies are contiguous.
        qkv: Tensor = self.to_qkv(x).flatten(2).mT
        q, k, v = qkv.view(*qkv.shape[:2], 3, self.heads, self.head_channels).unbind(2)
        q = q.softmax(dim=3, dtype=torch.float32).to(v.dtype)
        k = k.softmax(dim=1, dtype=torch.float32).to(v.dtype)
        context = torch.einsum("bnhd,bnhe->bhde", k, v) * self.head_channels**-0.5
        out = torch.einsum("bnhd,bhde->bnhe", q, context).flatten(2).mT
        return cast("Tensor", self.to_out(out.view(*out.shape[:2], *x.shape[2:])))


class Attention(nn.Module):
    """Softmax attention between all pixels, then a 1x1 convolution; without a norm or a residual connection.

    Args:
        channels: input and output channels.
        heads: H.
        head_channels: D of each head.
    """

    def __init__(self, channels: int, heads: int = 4, head_channels: int = 32) -> None:
        super().__init__()
        self.heads, self.head_channels = heads, head_channels
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_channels, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape as the input, (B, channels, h, w)."""
        qkv: Tensor = self.to_qkv(x).flatten(2)
        q, k, v = qkv.view(len(x), 3, self.heads, self.head_channels, qkv.shape[2]).mT.unbind(1)
        # Scores and softmax are float32 internally, whatever the dtype of q and k; the scale is 1 / sqrt(D).
        out = functional.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2)
        return cast("Tensor", self.to_out(out.view(*out.shape[:2], *x.shape[2:])))


class _Attended(nn.Module):
    """Residual wrapper of an attention layer: ``x + fn(norm(x))``."""

    def __init__(self, channels: int, attention: nn.Module) -> None:
        super().__init__()
        self.fn = nn.ModuleDict({"fn": attention, "norm": nn.GroupNorm(1, channels)})

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.fn["fn"](self.fn["norm"](x)))


class _Level(nn.ModuleList):
    """One resolution level: two blocks, attention, and the resampling to the next level."""

    def __init__(self, n_in: int, n_out: int, time_features: int, resample: nn.Module) -> None:
        blocks = ResnetBlock(n_in, n_out, time_features), ResnetBlock(n_out, n_out, time_features)
        super().__init__([*blocks, _Attended(n_out, LinearAttention(n_out)), resample])

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map at this level, and the one resampled to the next level."""
        first, second, attention, resample = self
        x = attention(second(first(x, time), time))
        return x, resample(x)


class DiffusionUNet(nn.Module):
    """Time-conditioned U-Net; the defaults are the published network: 31,267,083 parameters, 38 GFLOP at 128 x 128.

    L encoder levels, each at half the resolution of the previous one; softmax attention between two blocks in the
    middle; L-1 decoder levels, each of which concatenates the encoder's map at its resolution; the head.

    Args:
        width: channels of the finest level, a multiple of 8; also the size of the time embedding.
        multipliers: channels of each level, as multiples of ``width``; at least two.
        out_channels: K of the output.
        patch: 1 is published. Larger values are an option of this project: the network treats ``patch`` x ``patch``
            pixels as one with ``3 patch^2`` channels, and returns as many; 2 costs a quarter (10 GFLOP).
        fullres_skip: False is published: the decoder does not use the encoder's finest map. True is an option of this
            project: the head reads it, too.

    Raises:
        ValueError: invalid combination of arguments.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 4, 8),
        out_channels: int = 3,
        patch: int = 1,
        fullres_skip: bool = False,
    ) -> None:
        super().__init__()
        if width < _GROUPS or width % _GROUPS:
            raise ValueError(f"width must be a positive multiple of {_GROUPS}, not {width}")
        if len(multipliers) < 2 or min(multipliers) < 1:
            raise ValueError(f"multipliers must be two or more positive numbers, not {multipliers}")
        if out_channels < 1 or patch < 1:
            raise ValueError(f"out_channels and patch must be positive, not {out_channels} and {patch}")
        self.patch, self.fullres_skip = patch, fullres_skip
        stem, time_features = width // 3 * 2, 4 * width
        channels = tuple(width * multiplier for multiplier in multipliers)
        finest, deepest = channels[0], channels[-1]
        self._channels = channels

        self.init_conv = nn.Conv2d(3 * patch**2, stem, 7, padding=3)
        self.time_mlp = nn.Sequential(
            _TimeEmbedding(width), nn.Linear(width, time_features), nn.GELU(), nn.Linear(time_features, time_features)
        )
        self.downs = nn.ModuleList()
        for n_in, n_out in pairwise((stem, *channels)):
            last = len(self.downs) == len(channels) - 1
            shrink = nn.Identity() if last else nn.Conv2d(n_out, n_out, 4, stride=2, padding=1)
            self.downs.append(_Level(n_in, n_out, time_features, shrink))
        self.ups = nn.ModuleList()
        for n_in, n_out in pairwise(reversed(channels)):
            grow = nn.ConvTranspose2d(n_out, n_out, 4, stride=2, padding=1)
            self.ups.append(_Level(2 * n_in, n_out, time_features, grow))
        self.mid_block1 = ResnetBlock(deepest, deepest, time_features)
        self.mid_attn = _Attended(deepest, Attention(deepest))
        self.mid_block2 = ResnetBlock(deepest, deepest, time_features)
        self.final_conv = nn.Sequential(
            ResnetBlock(finest * (1 + fullres_skip), finest), nn.Conv2d(finest, out_channels * patch**2, 1)
        )

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``features`` returns."""
        return (*reversed(self._channels), self._channels[0] * (1 + self.fullres_skip))

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Image pixels per map pixel, along an edge, for each of these maps."""
        strides = tuple(self.patch * 2**level for level in range(len(self._channels)))
        return (strides[-1], *reversed(strides[1:]), strides[0])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise, or logits.

        Args:
            x: (B, 3, H, W) float; -1..1 as published.
            t: (B,) time steps, integer or float.

        Returns:
            (B, out_channels, H, W), of the dtype of the last convolution.
        """
        height, width = x.shape[2:]
        out = functional.pixel_shuffle(self.final_conv(self.features(x, t)[-1]), self.patch)
        return out[..., :height, :width]

    def features(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Return decoder maps, deepest first: the middle, each level before upsampling, and the head's input.

        Args:
            x: as for ``forward``. If a side is not a multiple of the deepest stride, the last row and column are
                replicated below and to the right, and the maps are those of the padded image.
            t: as for ``forward``.

        Returns:
            (B, C, padded H / stride, padded W / stride) for each of ``feature_channels`` and ``feature_strides``.
        """
        pad_y, pad_x = (-side % self.feature_strides[0] for side in x.shape[2:])
        if pad_y or pad_x:
            x = functional.pad(x, (0, pad_x, 0, pad_y), mode="replicate")
        x = self.init_conv(functional.pixel_unshuffle(x, self.patch))
        time = self.time_mlp(t)
        skips: list[Tensor] = []
        for level in self.downs:
            kept, x = level(x, time)
            skips.append(kept)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, time)), time)
        maps = [x]
        for level in self.ups:
            kept, x = level(torch.cat((x, skips.pop()), dim=1), time)
            maps.append(kept)
        (finest,) = skips
        return (*maps, torch.cat((x, finest), dim=1) if self.fullres_skip else x)


def published_initialisation(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the weights of all (transposed) convolutions and group norms from N(0, 0.01^2), in place.

    As in the official code, before both stages. Biases and linear layers are unchanged. The gains of norms then start
    near 0 instead of 1, so a block initially passes on little of the image. A network trained from scratch suffers from
    this: in a trial of 120 steps its mean IoU fell from .48 to .28, and from .43 to .21 with another seed, which turned
    a loss by pretraining into a gain. A control without pretraining must start from torch's own initialisation.

    Args:
        module: module to initialise, including its submodules.
        generator: on the device of the weights; None uses torch's own.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.GroupNorm) and part.weight is not None:
            nn.init.normal_(part.weight, std=0.01, generator=generator)


def transfer(source_state: Mapping[str, Tensor], network: DiffusionUNet) -> None:
    """Copy all weights except the head's into a network, bit for bit: 31,192,776 numbers for the published one.

    Args:
        source_state: state of a network with the same width, multipliers and patch; its head is ignored and may be
            missing.
        network: target; its head is left unchanged.

    Raises:
        ValueError: a name or a shape outside the heads differs; nothing is copied then.
    """
    given = {name: value for name, value in source_state.items() if not name.startswith(HEAD)}
    wanted = {name: value for name, value in network.state_dict().items() if not name.startswith(HEAD)}
    faults = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": sorted(
            name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape
        ),
    }
    if any(faults.values()):
        told = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"only the head may differ from what is transferred, but there are keys {told}")
    network.load_state_dict(given, strict=False)
