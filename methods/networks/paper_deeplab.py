"""Segmenter of Han et al. 2022: DeepLabV3+ (Chen et al., ECCV 2018) on a ResNet-101, as in their official code.

That code took it from github.com/jfzhang95/pytorch-deeplab-xception and added dropout. Parameters have the same names
here, so that its checkpoints load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.encoder_weights import read_tensors
from tissuebench.methods.networks.weights_file import WeightsFile, fitted_strictly

_BACKBONE = "resnet101.tv_in1k"  # the weights of torchvision that the official code downloads
_MULTI_GRID = (1, 2, 4)
_LAST_LAYER = "decoder.last_conv.8."
_WIDTH = 256


class DeepLabWeights(WeightsFile):
    """Weights of the whole network but its last layer, which is drawn anew.

    The official code starts from ``deeplab-resnet.pth.tar`` (21 classes), a checkpoint of pytorch-deeplab-xception that
    its authors share over a file-sharing site; its training set is not stated, and a hash is not published.
    """

    @classmethod
    def read(cls, path: Path) -> dict[str, Tensor]:
        """Return the tensors of ``PaperSegmenter`` without its last layer."""
        with torch.device("meta"):
            network = PaperSegmenter(1)
        return fitted_strictly(read_tensors(path, key=None), network, path, dropped=(_LAST_LAYER,))


class PaperSegmenter(nn.Module):
    """DeepLabV3+ with output stride 16, on images in 0..1 without further normalisation, as published.

    Args:
        n_classes: K.
        is_pretrained: whether the backbone starts from torchvision's ImageNet weights, which come from the hub; without
            effect if there is a file.
        file: weights of everything but the last layer.

    Raises:
        ConfigError: the weights are not available.
    """

    def __init__(self, n_classes: int, is_pretrained: bool = False, file: DeepLabWeights | None = None) -> None:
        super().__init__()
        self.backbone: Any = _resnet101(is_pretrained=is_pretrained and file is None)
        self.aspp = _Pyramid()
        self.decoder = _Decoder(n_classes)
        if file is not None:
            file.load_into(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K, H, W) of images (B, 3, H, W), uint8 or float in 0..1."""
        scaled = images.float() / 255 if not images.is_floating_point() else images
        net = self.backbone
        fine = net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(scaled)))))
        deep = net.layer4(net.layer3(net.layer2(fine)))
        return _enlarged(self.decoder(self.aspp(deep), fine), images)


class _Branch(nn.Module):
    """Convolution of the ASPP, 1x1 or dilated 3x3, with norm and ReLU."""

    def __init__(self, n_in: int, dilation: int) -> None:
        super().__init__()
        size, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.atrous_conv = nn.Conv2d(n_in, _WIDTH, size, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.atrous_conv(x)).relu()  # type: ignore[no-any-return]


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling at rates 1, 6, 12 and 18 and over the image, with dropout of .5 at the end."""

    def __init__(self, n_in: int = 2048) -> None:
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = (_Branch(n_in, rate) for rate in (1, 6, 12, 18))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(n_in, _WIDTH, 1, bias=False), nn.BatchNorm2d(_WIDTH), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * _WIDTH, _WIDTH, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.apply(_drawn)

    def forward(self, x: Tensor) -> Tensor:
        branches = [branch(x) for branch in (self.aspp1, self.aspp2, self.aspp3, self.aspp4)]
        joined = torch.cat([*branches, _enlarged(self.global_avg_pool(x), x)], dim=1)
        return self.dropout(self.bn1(self.conv1(joined)).relu())  # type: ignore[no-any-return]


class _Decoder(nn.Module):
    """Two 3x3 convolutions and the last layer, on the ASPP's map beside the backbone's map at stride 4."""

    def __init__(self, n_classes: int, n_fine: int = 256, n_reduced: int = 48) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_fine, n_reduced, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_reduced)
        self.last_conv = nn.Sequential(
            nn.Conv2d(_WIDTH + n_reduced, _WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(_WIDTH, n_classes, 1),
        )
        self.apply(_drawn)

    def forward(self, deep: Tensor, fine: Tensor) -> Tensor:
        reduced = self.bn1(self.conv1(fine)).relu()
        return self.last_conv(torch.cat([_enlarged(deep, reduced), reduced], dim=1))  # type: ignore[no-any-return]


def _resnet101(is_pretrained: bool) -> nn.Module:
    """Return the layers of a ResNet-101 with output stride 16 and multi-grid rates in its last stage."""
    try:
        network = timm.create_model(
            _BACKBONE, pretrained=is_pretrained, output_stride=16, num_classes=0, global_pool=""
        )
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the weights of ResNet-101 for backbone 'paper' cannot be loaded ({reason}); "
            "set network.weights to 'none', or name a checkpoint"
        ) from None
    for unit, grid in zip(network.layer4, _MULTI_GRID, strict=True):
        unit.conv2.dilation = unit.conv2.padding = (2 * grid, 2 * grid)
    if not is_pretrained:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # timm's are 0 at the end of each unit
    return cast("nn.Module", network)


def _drawn(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
