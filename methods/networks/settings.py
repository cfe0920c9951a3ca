"""Settings of the network that all methods share."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from tissuebench.common.settings import Settings


class Architecture(StrEnum):
    """Choice of architecture.

    ``matched``: the network that all methods share. ``paper``: the one that a method was published with.
    """

    MATCHED = "matched"
    PAPER = "paper"


class Decoder(StrEnum):
    """Decoder architecture of segmentation-models-pytorch."""

    UNET = "unet"
    FPN = "fpn"


class Weights(StrEnum):
    """Source of the encoder's weights: timm's hub, an installed package (offline), or random initialisation."""

    TIMM = "timm"
    PACKAGE = "package"
    NONE = "none"


class EncoderMode(StrEnum):
    """Training mode of the encoder: fine-tuned with the rest, or frozen with cached features."""

    FINETUNE = "finetune"
    FROZEN = "frozen"


class NetworkSettings(Settings):
    """Settings of the network that all methods share.

    Attributes:
        encoder: a timm name.
        weights: source of its pretrained weights.
        encoder_mode: ``frozen`` trains the decoder only, on features that are computed once.
        decoder: decoder architecture.
        decoder_channels: width of the decoder (of its widest level for the U-Net), a multiple of 32.
        dropout: dropout rate of whole feature maps before the last layer (FPN).
        feature_variants: augmented variants of each tile whose features are cached (``frozen``).
    """

    encoder: str = "resnet34"
    weights: Weights = Weights.TIMM
    encoder_mode: EncoderMode = EncoderMode.FINETUNE
    decoder: Decoder = Decoder.UNET
    decoder_channels: int = Field(256, ge=32, multiple_of=32)
    dropout: float = Field(0.1, ge=0, lt=1)
    feature_variants: int = Field(4, ge=1, le=64)

    @model_validator(mode="after")
    def _frozen_means_pretrained(self) -> Self:
        if self.encoder_mode is EncoderMode.FROZEN and self.weights is Weights.NONE:
            raise ValueError("encoder_mode 'frozen' needs pretrained weights: 'timm' or 'package', not 'none'")
        return self
