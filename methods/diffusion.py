"""Diffusion pre-training on unlabelled tissue (Purma et al., IEEE Trans. Med. Imaging 2024; arXiv 2309.01487).

A network learns, without labels, to predict the noise in noisy tiles of all training patients. It then gets a new head
and is fine-tuned on the tiles that have masks, with clean images and a constant time step as input.

The defaults are this project's; ``diffusion_published`` has those of the paper. ``diffusion_scratch`` is the control:
the same network, loss and fine-tuning without the pre-training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor

from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.methods.api import (
    ANNOTATED,
    Method,
    Own,
    RecipeSettings,
    Segmenter,
    Stage,
    Stream,
    Supervision,
    TrainingBatch,
    TrainingSettings,
    in_place_of,
    inherited,
    masked_cross_entropy,
    register,
)
from tissuebench.methods.denoising.pretraining import (
    DenoiserSettings,
    Denoising,
    DenoisingSettings,
    Initialisation,
    build_unet,
    trained_weights,
)
from tissuebench.methods.denoising.schedule import Reduction
from tissuebench.methods.losses.focal import focal_loss
from tissuebench.methods.losses.poly_log import poly_log_loss
from tissuebench.methods.losses.structural_similarity import structural_similarity_loss
from tissuebench.methods.losses.tversky import tversky_loss
from tissuebench.methods.networks.diffusion_unet import transfer
from tissuebench.methods.networks.settings import Architecture
from tissuebench.methods.networks.time_conditioned import TimedSegmenter
from tissuebench.methods.networks.unet_segmenter import Head, InputRange, UNetSegmenter

PRETRAIN = "pretrain"


class FineTuningLoss(StrEnum):
    """Loss of the fine-tuning.

    ``cross_entropy``: as in all methods. ``structural_similarity``: as published, with the focal loss added.
    ``tversky`` and ``poly_log`` are in the published code, but not in the published recipe.
    """

    CROSS_ENTROPY = "cross_entropy"
    STRUCTURAL_SIMILARITY = "structural_similarity"
    TVERSKY = "tversky"
    POLY_LOG = "poly_log"


def _structural_and_focal(logits: Tensor, masks: Tensor) -> Tensor:
    return structural_similarity_loss(logits, masks) + focal_loss(logits, masks)


_LOSSES: Mapping[FineTuningLoss, Callable[[Tensor, Tensor], Tensor]] = {
    FineTuningLoss.CROSS_ENTROPY: masked_cross_entropy,
    FineTuningLoss.STRUCTURAL_SIMILARITY: _structural_and_focal,
    FineTuningLoss.TVERSKY: tversky_loss,
    FineTuningLoss.POLY_LOG: poly_log_loss,
}


class FineTuningSettings(DenoiserSettings):
    """Network and fine-tuning settings.

    Attributes:
        head: head of the U-Net as a segmenter (``paper``); published: ``finest``.
        step: time step at which the network segments; published: 0. A noise predictor has learned least there: P2
            weights step 0 by 1e-4.
        input_range: range of the input images during segmentation (``paper``).
        loss: loss of the fine-tuning.
    """

    head: Head = Head.LEVELS
    step: float = Field(100, ge=0, lt=1000)
    input_range: InputRange = InputRange.SYMMETRIC
    loss: FineTuningLoss = FineTuningLoss.CROSS_ENTROPY


FineTuningT = TypeVar("FineTuningT", bound=FineTuningSettings)


_FORMERLY = {"steps": "pretrain_steps", "batch_size": "pretrain_batch", "learning_rate": "pretrain_rate"}


class DiffusionSettings(FineTuningSettings, DenoisingSettings):
    """Settings of fine-tuning and pre-training.

    Attributes:
        pretraining: training settings of the pre-training in place of the plan's.
        pretraining_augmentation: its augmentation settings in place of the plan's.
    """

    pretraining: Annotated[
        dict[str, Any], Own(TrainingSettings, formerly=_FORMERLY, steps=500, batch_size=16, learning_rate=2e-3)
    ] = inherited()
    pretraining_augmentation: Annotated[dict[str, Any], Own(AugmentSettings)] = inherited()


class FineTuning(Method[FineTuningT]):
    """Base class of the fine-tuning: the network at a constant time step, and its loss on tiles with masks."""

    consumes = frozenset({Supervision.MASKS})
    half_precision = True  # as its pre-training; all four losses are float32

    def make_network(self) -> Segmenter:
        """Build the network that the settings select, at its constant time step."""
        task, config, n_classes = self.task, self.config, len(self.task.class_map)
        if config.network is Architecture.MATCHED:
            network = TimedSegmenter(task.network, n_classes, task.tile_px, config.step)
            return network.to(memory_format=torch.channels_last)
        unet = build_unet(config, n_classes)  # it wants images, so its features are never requested
        return cast("Segmenter", UNetSegmenter(unet, n_classes, config.step, config.input_range, config.head))

    @classmethod
    def brings_network(cls, config: FineTuningT) -> bool:
        """Whether the settings select the published U-Net."""
        return config.network is Architecture.PAPER

    def streams(self) -> Mapping[str, Stream]:
        """Return one stream: annotated tiles, balanced by class."""
        return {ANNOTATED: self.annotated_stream()}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the loss of the tiles with masks."""
        annotated = batch[ANNOTATED]
        return _LOSSES[self.config.loss](self.network(annotated.inputs), annotated.masks)


@register
class DiffusionFromScratch(FineTuning[FineTuningSettings]):
    """Control of ``diffusion``: the same network and fine-tuning from random weights, which the pre-training must beat.

    The plan's settings for ``diffusion`` apply here, too, except for the initialisation.
    """

    name = "diffusion_scratch"
    summary = "the network and fine-tuning of diffusion without its pre-training (control)"
    controls = ()
    control_of: ClassVar[str] = "diffusion"

    @classmethod
    def planned_settings(cls, plan: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the settings of the method it controls, where they apply; its initialisation is torch's default."""
        theirs = plan.get(cls.control_of, {})
        shared = {
            key: value for key, value in theirs.items() if key in cls.Config.model_fields and key != "initialisation"
        }
        return {**shared, **super().planned_settings(plan)}


@register
class Diffusion(FineTuning[DiffusionSettings]):
    """Denoising of unlabelled tissue, then fine-tuning on masks."""

    name = "diffusion"
    summary = "denoising of unlabelled tissue, then cross-entropy on the masks (after Purma et al.)"
    controls = ("supervised", "diffusion_scratch", "full")

    @classmethod
    def stages(cls, config: DiffusionSettings, training: TrainingSettings) -> tuple[Stage, ...]:
        """Return the pre-training stage, which does not depend on the budget."""
        settings = DenoisingSettings.model_validate(config.model_dump(include=set(DenoisingSettings.model_fields)))
        own = in_place_of(training, config.pretraining, f"methods.{cls.name}.pretraining")
        return (Stage(PRETRAIN, Denoising, settings, own, augmentation=config.pretraining_augmentation),)

    def inherit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load all pre-trained weights except the head's.

        Raises:
            ValueError: the weights belong to a different network.
        """
        learnt = trained_weights(weights[PRETRAIN])
        if isinstance(self.network, TimedSegmenter):
            self.network.take_over(learnt)
        else:
            transfer(learnt, cast("UNetSegmenter", self.network).unet)


_ADAM: dict[str, Any] = {  # pretrain/SS_diff.py, downstream_train/Diff_Seg.py: torch.optim.Adam, and nothing else
    "batch_size": 8,
    "drop_last": True,
    "sampling": "shuffled",
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "rate_schedule": "constant",
    "gradient_clip": None,
}
_FLIPS: dict[str, Any] = {"orientations": "flips", "color": 0.0, "hue": 0.0, "scale": 0.0, "blur": 0.0, "stain": 0.0}
_JITTER: dict[str, Any] = {
    "jitter": "torchvision",
    "brightness": 0.5,
    "contrast": 0.4,
    "saturation": 0.0,
    "color_probability": 0.3,
    "blur_kernel": 3,
    "blur_sigma": "per_axis",
    "blur_from": 1.0,
    "blur": 2.0,
    "blur_probability": 0.3,
}


class PublishedFineTuningSettings(FineTuningSettings, RecipeSettings):
    """Settings of the published network and fine-tuning; where the paper could not be read, those of its code."""

    network: Architecture = Architecture.PAPER
    head: Head = Head.FINEST
    step: float = Field(0, ge=0, lt=1000)
    input_range: InputRange = InputRange.UNIT
    loss: FineTuningLoss = FineTuningLoss.STRUCTURAL_SIMILARITY
    training: Annotated[dict[str, Any], Own(TrainingSettings, **_ADAM, epochs=150, betas=[0.5, 0.999])] = inherited()
    augmentation: Annotated[dict[str, Any], Own(AugmentSettings, **{**_FLIPS, **_JITTER})] = inherited()


@register
class PublishedDiffusion(Diffusion):
    """Published recipe: network, initialisation, losses, optimiser, epochs and augmentation of both trainings."""

    class Config(PublishedFineTuningSettings, DiffusionSettings):
        """Settings of the official code."""

        initialisation: Initialisation = Initialisation.PUBLISHED
        reduction: Reduction = Reduction.SUM
        pretraining: Annotated[dict[str, Any], Own(TrainingSettings, **_ADAM, epochs=100)] = inherited()
        pretraining_augmentation: Annotated[dict[str, Any], Own(AugmentSettings, **_FLIPS)] = inherited()

    name = "diffusion_published"
    summary = "the published recipe: U-Net, losses, Adam, 100 and 150 epochs (Purma et al.)"
    controls = ("supervised", "diffusion_published_scratch", "full")


@register
class PublishedFromScratch(DiffusionFromScratch):
    """Control of ``diffusion_published``: its network and fine-tuning from torch's own initialisation."""

    class Config(PublishedFineTuningSettings):
        """Settings of the official code, except for the initialisation."""

    name = "diffusion_published_scratch"
    summary = "diffusion_published without its pre-training (control)"
    control_of: ClassVar[str] = "diffusion_published"
