"""Settings that every method shares: network and training. Unknown keys are errors."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Base of all settings: frozen, and a key that does not exist is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(StrEnum):
    """``matched``: the network that all arms share. ``paper``: the one that a method was published with."""

    MATCHED = "matched"
    PAPER = "paper"


class Decoder(StrEnum):
    """Decoders of segmentation-models-pytorch."""

    UNET = "unet"
    FPN = "fpn"


class Weights(StrEnum):
    """Where the encoder's weights come from: timm's hub, an installed package (offline), or random."""

    TIMM = "timm"
    PACKAGE = "package"
    NONE = "none"


class EncoderMode(StrEnum):
    """Train the encoder with the rest, or leave it as it is and cache its features."""

    FINETUNE = "finetune"
    FROZEN = "frozen"


class NetworkSettings(Settings):
    """The network that all arms share.

    Attributes:
        encoder: a timm name.
        weights: where its pretrained weights come from.
        encoder_mode: ``frozen`` trains the decoder only, on features that are computed once.
        decoder: which decoder.
        decoder_channels: width of the decoder (of its widest level for the U-Net), a multiple of 32.
        dropout: of whole feature maps before the last layer (FPN).
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


class RateSchedule(StrEnum):
    """``one_cycle``: 5 % warm-up, cosine to 0. ``polynomial``: ``(1 - step / steps)^0.9``, usual in published code."""

    ONE_CYCLE = "one_cycle"
    POLYNOMIAL = "polynomial"


class TrainingSettings(Settings):
    """The step budget and optimiser that all arms share.

    Attributes:
        steps: optimiser steps of the last stage, equal for all arms.
        batch_size: tiles a step of each stream.
        learning_rate, weight_decay: AdamW.
        rate_schedule: what becomes of the rate over the steps.
        gradient_clip: maximum norm of the gradient.
        selection_share: share of the bought patients who are not trained on but choose the checkpoint by their mIoU:
            their masks are inside the budget, hence paid for. 0 chooses nothing and keeps the last state.
        selection_every: steps between two looks at them.
        compile: torch.compile the network (GPU: minutes of warm-up for long trials only).
    """

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    rate_schedule: RateSchedule = RateSchedule.ONE_CYCLE
    gradient_clip: float = Field(1.0, gt=0)
    selection_share: float = Field(0.0, ge=0, le=0.5)
    selection_every: int = Field(100, ge=1)
    compile: bool = False
