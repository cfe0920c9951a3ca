"""Networks that classify a tile's tags and localise the evidence as activation maps at three depths."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.methods.networks.encoded import Encoded
from tissuebench.methods.networks.encoder import build_encoder
from tissuebench.methods.networks.paper_resnet38 import ResNet38
from tissuebench.methods.networks.resnet38_weights import ResNet38Weights
from tissuebench.methods.networks.settings import Architecture, NetworkSettings
from tissuebench.methods.pseudo_labels.attention_dropout import attention_dropout
from tissuebench.methods.pseudo_labels.grad_cam import enlarge, grad_cam

LAYERS = ("shallow", "middle", "deep")
_PUBLISHED_DROPOUT = 0.5
_HEADS_DROPOUT = 0.2


class MapSource(StrEnum):
    """Source of the activation maps: one head per depth (this project's), or Grad-CAM at three depths (published)."""

    HEADS = "heads"
    GRAD_CAM = "grad_cam"


class TagClassifier(nn.Module):
    """Encoder whose three deepest maps are the taps, with heads that score classes at each of their pixels.

    A head's logits are the mean of the ``top_share`` highest scores of each class in a tile: 1 is the published global
    average pooling. If tags name the classes that cover at least a certain share of a tile, a class is tagged exactly
    if that share of the pixels shows it. Pooling over few pixels therefore puts the border between present and absent
    at the same score for tiles as for single pixels; with averaging it shifts from tile to tile.

    ``heads``: at depth l, ``m_l = relu(sum over levels j <= l of W_lj up(norm(tap_j)))`` at the stride of the
    shallowest tap, with its own linear head. The visible context grows with depth: nuclei first, surroundings last.
    ``grad_cam``: one linear head without bias on ``relu(deepest tap)``, as published.

    Args:
        settings: settings of the shared network.
        n_classes: K.
        tile_px: edge length of the tiles that cached features come from.
        maps: ``heads`` or ``grad_cam``.
        backbone: encoder to use; the paper's has three taps at stride 8.
        top_share: in 0..1 without 0.
        hidden: width of ``m_l`` (``heads``).
        weights: ImageNet weights of the paper's backbone, whose norms and first units are then not trained, as in the
            official code; None starts at random and trains everything.
        width: channels of the first convolution of the paper's backbone.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        n_classes: int,
        tile_px: int,
        maps: MapSource,
        backbone: Architecture,
        top_share: float,
        hidden: int,
        weights: ResNet38Weights | None = None,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.maps, self._top_share, self._tile_px = maps, top_share, tile_px
        if backbone is Architecture.PAPER:
            # Without pretrained weights there is nothing to keep.
            is_pretrained = weights is not None
            self.encoder: nn.Module = ResNet38(width, freeze_norm=is_pretrained, freeze_stem=is_pretrained)
            if weights is not None:
                weights.load_into(self.encoder)
            channels: tuple[int, ...] = (8 * width, 16 * width, 64 * width)
            self._strides: tuple[int, ...] = (8, 8, 8)
        else:
            shared = build_encoder(settings)
            self.encoder, channels, self._strides = shared, shared.channels[-3:], shared.strides[-3:]
        if maps is MapSource.HEADS:
            self.trunk = Cumulative(channels, self._strides, hidden)
            widths = [hidden] * len(channels)
        else:
            widths = [channels[-1]]
        # Modules, not functions: with several processes these drop what one process would.
        self.dropout = nn.Dropout2d(_HEADS_DROPOUT if maps is MapSource.HEADS else _PUBLISHED_DROPOUT)
        self.heads = nn.ModuleList(nn.Conv2d(width, n_classes, 1, bias=maps is MapSource.HEADS) for width in widths)
        if maps is MapSource.GRAD_CAM:
            nn.init.xavier_uniform_(cast("nn.Conv2d", self.heads[0]).weight)

    def forward(
        self, inputs: Tensor | tuple[Tensor, ...], keep: float | None = None, divide_by: int | None = None
    ) -> Tensor:
        """Return the logits (B, H, K) of all H heads, from images or from cached features of tiles.

        Args:
            inputs: (B, 3, H, W) images, or features from ``ImageEncoder.encode``: those of tiles as a plain tuple.
            keep: parameter of progressive dropout attention before each head; None disables it.
            divide_by: divisor of that attention.
        """
        if isinstance(inputs, Encoded):
            size = inputs.size
        else:
            edge = self._tile_px
            size = (inputs.shape[-2], inputs.shape[-1]) if isinstance(inputs, Tensor) else (edge, edge)
        return self._logits(self._taps(inputs), size, keep, divide_by)

    def activation_maps(self, inputs: Tensor | tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Return the maps of every class at the three depths, (B, 3, K, *size) float32, in evaluation mode.

        Grad-CAM differentiates through the encoder, so it needs images.

        Raises:
            ValueError: Grad-CAM of cached features.
        """
        if self.maps is MapSource.HEADS:
            with torch.no_grad():
                taps = self._taps(inputs)
                scores = [head(m) for head, m in zip(self.heads, self.trunk(taps), strict=True)]
                return torch.stack([self._resized(score.float(), self._strides[0], size) for score in scores], dim=1)
        if not isinstance(inputs, Tensor):
            raise ValueError("Grad-CAM looks through the encoder: it needs images, not cached features")
        with torch.enable_grad():
            taps = self._taps(_differentiable(inputs), through=True)
            cams = grad_cam(taps, self._logits(taps, size, None, None)[:, 0])
        resized = [self._resized(cam, stride, size) for cam, stride in zip(cams, self._strides, strict=True)]
        return torch.stack(resized, dim=1)

    def _taps(self, inputs: Tensor | tuple[Tensor, ...], through: bool = False) -> tuple[Tensor, ...]:
        if not isinstance(inputs, Tensor):
            taps = tuple(feature.float() for feature in inputs[-3:])
        elif isinstance(self.encoder, ResNet38):
            return cast("tuple[Tensor, ...]", self.encoder(_unit_range(inputs)))
        else:
            taps = tuple(self.encoder.encode(inputs, through)[-3:])  # type: ignore[operator]
        # After a linear bottleneck the deepest map has no ReLU of its own; the published tap is after one.
        return (*taps[:-1], taps[-1].relu()) if self.maps is MapSource.GRAD_CAM else taps

    def _logits(
        self, taps: Sequence[Tensor], size: tuple[int, int], keep: float | None, divide_by: int | None
    ) -> Tensor:
        if self.maps is MapSource.HEADS:
            features, stride = self.trunk(taps), self._strides[0]
        else:
            features, stride = [taps[-1]], self._strides[-1]
        logits = []
        for head, feature in zip(self.heads, features, strict=True):
            seen = feature
            if keep is not None:
                seen, _ = attention_dropout(feature, cast("nn.Conv2d", head).weight[:, :, 0, 0], keep, divide_by)
            scores = head(self.dropout(seen))
            height, width = (-(-side // stride) for side in size)
            logits.append(self._pooled(scores[..., :height, :width]))
        return torch.stack(logits, dim=1)

    def _pooled(self, scores: Tensor) -> Tensor:
        """Return the mean of the highest scores of each class, (B, K)."""
        flat = scores.float().flatten(2)
        count = max(1, round(self._top_share * flat.shape[2]))
        return flat.mean(dim=2) if count == flat.shape[2] else flat.topk(count, dim=2).values.mean(dim=2)

    @staticmethod
    def _resized(cams: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        """Resize bilinearly to the padded image that the map covers, then crop the padding."""
        height, width = (side * stride for side in cams.shape[-2:])
        # Contiguous planes make the computation of masks more than twice as fast.
        return enlarge(cams.contiguous(), (height, width))[..., : size[0], : size[1]]


class Cumulative(nn.Module):
    """Hidden maps at each depth, computed from all taps up to that depth, at the stride of the shallowest tap.

    A 1x1 convolution and bilinear upsampling commute, so maps are first reduced in width and then upsampled.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], hidden: int) -> None:
        super().__init__()
        self._scales = [stride // strides[0] for stride in strides]
        self._hidden = hidden
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels)
        self.dropout = nn.Dropout(_HEADS_DROPOUT)
        self.mixes = nn.ModuleList(
            nn.Conv2d(width, hidden * (len(channels) - level), 1, bias=level == 0)
            for level, width in enumerate(channels)
        )

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Return non-negative maps (B, hidden, h, w) for each depth; h and w are those of the shallowest tap."""
        depths = len(taps)
        total: Tensor | None = None
        for level, (tap, norm, mix, scale) in enumerate(zip(taps, self.norms, self.mixes, self._scales, strict=True)):
            share = mix(self.dropout(norm(tap)))
            if scale > 1:
                share = functional.interpolate(share, scale_factor=float(scale), mode="bilinear", align_corners=False)
            if total is None:
                total = share
            else:  # shallower depths do not see this level
                total = torch.cat([total[:, : level * self._hidden], total[:, level * self._hidden :] + share], dim=1)
        assert total is not None  # noqa: S101 - there are taps
        return list(total.relu().chunk(depths, dim=1))


def _unit_range(images: Tensor) -> Tensor:
    """Return images in 0..1 without mean and standard deviation, the input of the paper's network."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _differentiable(images: Tensor) -> Tensor:
    """Return images that require a gradient, so that there is a graph even through a frozen encoder."""
    return _unit_range(images).detach().requires_grad_()
