"""Settings of the network that all methods share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from tissuebench.common.settings import Settings

HUB = "hf-hub:"
"""Prefix of a repository on the Hugging Face hub, as in timm."""


class Architecture(StrEnum):
    """Choice of architecture.

    ``matched``: the network that all methods share. ``paper``: the one that a method was published with.
    """

    MATCHED = "matched"
    PAPER = "paper"


class Decoder(StrEnum):
    """Decoder architecture of segmentation-models-pytorch; DPT reads the tokens of vision transformers only."""

    UNET = "unet"
    FPN = "fpn"
    DPT = "dpt"


class Weights(StrEnum):
    """Source of the encoder's weights other than a file or the hub.

    ``timm``: the published ones of the encoder, which timm or the catalogue names; ``package``: an installed package
    (offline); ``none``: random initialisation.
    """

    TIMM = "timm"
    PACKAGE = "package"
    NONE = "none"


class EncoderMode(StrEnum):
    """Training mode of the encoder.

    ``finetune``: trained with the rest. ``frozen``: not trained, its features are cached. ``lora``: a low-rank update
    of its attention layers is trained (Hu et al., ICLR 2022).
    """

    FINETUNE = "finetune"
    FROZEN = "frozen"
    LORA = "lora"


class FeatureCache(StrEnum):
    """Place of the features of a frozen encoder.

    ``disk``: computed once, in shards that are tasks of the sweep. ``memory``: computed by each worker process and kept
    for its further tasks, with the results of ``disk``. ``off``: none are kept; the encoder sees images, augmented anew
    in every step.
    """

    DISK = "disk"
    MEMORY = "memory"
    OFF = "off"


class FeatureDtype(StrEnum):
    """Number format of the features of training tiles; those of windows are always ``float32``."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class NetworkSettings(Settings):
    """Settings of the network that all methods share.

    Attributes:
        encoder: a timm name, a name of ``tissuebench encoders list``, or ``hf-hub:owner/name``.
        weights: source of its pretrained weights: ``timm``, ``package``, ``none``, ``hf-hub:owner/name``, or the path
            of a file (``.safetensors``, ``.pt``, ``.pth``, ``.bin``) or of a folder in the hub's layout.
        encoder_mode: ``frozen`` trains the decoder only, on features that are computed once.
        lora_rank: rank of the updates (``lora``).
        depths: how many depths of a vision transformer are read, evenly spaced down to its last block.
        decoder: decoder architecture.
        decoder_channels: width of the decoder (of its widest level for the U-Net), a multiple of 32.
        dropout: dropout rate of whole feature maps before the last layer (FPN).
        feature_variants: augmented variants of each tile whose features are cached (``frozen``).
        feature_cache: place of the features of training tiles, and of the windows that scoring predicts (``frozen``);
            null, the default, is ``disk`` unless they would be larger than ``compute.feature_cache_gb``.
        feature_dtype: number format of the features of training tiles (``frozen``).
    """

    encoder: str = "resnet34"
    weights: str = Weights.TIMM
    encoder_mode: EncoderMode = EncoderMode.FINETUNE
    lora_rank: int = Field(8, ge=1, le=256)
    depths: int = Field(4, ge=1, le=16)
    decoder: Decoder = Decoder.UNET
    decoder_channels: int = Field(256, ge=32, multiple_of=32)
    dropout: float = Field(0.1, ge=0, lt=1)
    feature_variants: int = Field(4, ge=1, le=64)
    feature_cache: FeatureCache | None = None
    feature_dtype: FeatureDtype = FeatureDtype.FLOAT16

    @field_validator("feature_cache", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        return FeatureCache.OFF if value is False else value  # YAML reads an unquoted off as false

    @property
    def caches_features(self) -> bool:
        """Whether training and scoring read features in place of images."""
        return self.encoder_mode is EncoderMode.FROZEN and self.feature_cache is not FeatureCache.OFF

    @field_validator("weights")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """Return a word as it is and a path as an absolute one, as workers run in other folders."""
        if value in set(Weights):
            return Weights(value)
        if value.startswith(HUB):
            return value
        return str(Path(value).expanduser().absolute())

    @model_validator(mode="after")
    def _pretrained_if_kept(self) -> Self:
        if self.encoder_mode is not EncoderMode.FINETUNE and self.weights == Weights.NONE:
            raise ValueError(
                f"encoder_mode '{self.encoder_mode}' needs pretrained weights: 'timm', 'package', a path or a hub "
                "name, not 'none'"
            )
        return self
