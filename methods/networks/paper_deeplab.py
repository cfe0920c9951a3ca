"""Segmenter of Han et al. 2022: DeepLabV3+ on a ResNet-101."""

from __future__ import annotations

from typing import cast

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.errors import ConfigError
from tissuebench.methods.networks.settings import Weights

_STRIDE = 16


class PaperSegmenter(nn.Module):
    """DeepLabV3+ with output stride 16, on images in 0..1 without further normalisation, as published.

    This is the implementation of segmentation-models-pytorch: it lacks the multi-grid rates and the dropout of .5 of
    the official code, and starts from ImageNet weights instead of that code's checkpoint of unknown origin.

    Args:
        weights: ``timm`` loads ImageNet weights of the encoder from the hub, ``none`` starts at random.
        n_classes: K.

    Raises:
        ConfigError: the weights are not available.
    """

    def __init__(self, weights: str, n_classes: int) -> None:
        super().__init__()
        if weights not in (Weights.TIMM, Weights.NONE):
            raise ConfigError(
                f"network.weights '{weights}' has no ResNet-101 for backbone 'paper'; use 'timm' or 'none'"
            )
        try:
            self.model = smp.DeepLabV3Plus(
                "resnet101", encoder_weights="imagenet" if weights == Weights.TIMM else None, classes=n_classes
            )
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"the weights of ResNet-101 for backbone 'paper' cannot be loaded ({str(error).splitlines()[0]}); "
                "set network.weights to 'none'"
            ) from None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K, H, W) of images (B, 3, H, W), uint8 or float in 0..1."""
        height, width = images.shape[-2:]
        scaled = images.float() / 255 if not images.is_floating_point() else images
        padded = functional.pad(scaled, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
        return cast("Tensor", self.model(padded))[..., :height, :width]
