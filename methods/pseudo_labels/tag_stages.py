"""Stages that turn tile tags into pseudo-masks: a classifier's activation maps, or the rarest class everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from tissuebench.common.settings import Later
from tissuebench.datasets.color.white_background import white_mask
from tissuebench.methods.api import (
    IGNORE_LABEL,
    Settings,
    Stream,
    StreamName,
    Supervision,
    TagBatch,
    Task,
    TileBatch,
    Trainable,
    TrainingBatch,
    pooled,
)
from tissuebench.methods.api.stage import SettingsT
from tissuebench.methods.networks.resnet38_weights import ResNet38Weights
from tissuebench.methods.networks.settings import Architecture
from tissuebench.methods.pseudo_labels.attention_dropout import AttentionSchedule, DropoutForm
from tissuebench.methods.pseudo_labels.pseudo_masks import (
    Absent,
    Scale,
    agreement,
    fill,
    min_max,
    restricted_argmax,
    shared_threshold,
)
from tissuebench.methods.pseudo_labels.tag_classifier import LAYERS, MapSource, TagClassifier


class Rule(StrEnum):
    """Rule that turns activation maps into masks.

    ``joint``: the highest map among the tile's classes (published: scaling a tile's maps together does not change the
    argmax). ``per_class``: each map is first scaled to 0..1 by itself. ``shared_threshold``: shared classes (stroma)
    where their scaled map is above a threshold, the others elsewhere. ``both``: the class where ``joint`` and
    ``per_class`` agree, nothing elsewhere.
    """

    JOINT = "joint"
    PER_CLASS = "per_class"
    SHARED_THRESHOLD = "shared_threshold"
    BOTH = "both"


class ClassifierSettings(Settings):
    """Settings that the pseudo-masks depend on.

    Attributes:
        maps: ``heads`` or the published ``grad_cam``.
        backbone: ``matched``, the encoder that all methods share, or the ``paper``'s ResNet-38.
        classifier_weights: file with ImageNet weights of the paper's ResNet-38 (``.params`` of MXNet, or PyTorch's);
            its norms and first units are then not trained. Null starts at random and trains everything.
        classifier_width: channels of the first convolution of the paper's ResNet-38, with which all others scale;
            published: 64.
        top_share: share of a tile's pixels, those with the highest scores, over which a class is pooled; published: 1.
        hidden: width of the heads' hidden maps (``heads``).
        attention: schedule of progressive dropout attention; null disables it.
        attention_epochs: number of epochs that the schedule assumes for the step budget.
        attention_divisor: divisor of the attention; null is the number of classes. The official code divides by 4,
            whatever the number of classes.
        rule: rule that turns maps into masks.
        threshold: threshold of ``shared_threshold``.
        absent: treatment of classes without a tag; ``zero`` is the official code's.
        doubt: leave out pixels that an untagged class claims (``heads``): its score is positive, and higher than those
            of all tagged classes. A tag requires a minimum share of the tile, so an untagged class may still be
            present. Published: false.
    """

    maps: MapSource = MapSource.HEADS
    backbone: Architecture = Architecture.MATCHED
    classifier_weights: Annotated[ResNet38Weights | None, Later(None)] = None
    classifier_width: Annotated[int, Later(64)] = Field(64, ge=8, le=64, multiple_of=8)
    top_share: float = Field(0.25, gt=0, le=1)
    hidden: int = Field(64, ge=1)
    attention: DropoutForm | None = None
    attention_epochs: int = Field(20, ge=1)
    attention_divisor: int | None = Field(None, ge=1)
    rule: Rule = Rule.PER_CLASS
    threshold: float = Field(0.5, ge=0, le=1)
    absent: Absent = Absent.EXCLUDED
    doubt: bool = True

    @model_validator(mode="after")
    def _classifier_weights_have_their_network(self) -> Self:
        if self.classifier_weights is not None and self.backbone is not Architecture.PAPER:
            raise ValueError("classifier_weights are those of ResNet-38 and need backbone: paper")
        if self.classifier_weights is not None and self.classifier_width != 64:
            raise ValueError(f"classifier_weights are of width 64, not classifier_width {self.classifier_width}")
        return self


def build_classifier(task: Task, settings: ClassifierSettings) -> TagClassifier:
    """Build the classifier that these settings describe.

    Raises:
        ConfigError: its file of weights cannot be read.
    """
    return TagClassifier(
        task.network,
        len(task.class_map),
        task.tile_px,
        settings.maps,
        settings.backbone,
        settings.top_share,
        settings.hidden,
        settings.classifier_weights,
        settings.classifier_width,
    )


class _TagStage(Trainable[SettingsT]):
    """Base class of both stages: counts the tags, and notes classes that no tile shows.

    Buffers:
        counts: (K,) int64, tagged tiles of each class.
        seen: (K,) bool, classes with at least one.
    """

    stream: ClassVar = StreamName("tagged", TagBatch)
    counts: Tensor
    seen: Tensor

    def __init__(self, task: Task, config: SettingsT) -> None:
        super().__init__(task, config)
        n_classes = len(task.class_map)
        self.register_buffer("counts", torch.zeros(n_classes, dtype=torch.int64))
        self.register_buffer("seen", torch.ones(n_classes, dtype=torch.bool))

    def streams(self) -> Mapping[str, Stream]:
        """Return one stream: tagged tiles, balanced by class."""
        return {self.stream: Stream(Supervision.TAGS, self.task.training.batch_size)}

    def survey(self, tags: Mapping[str, Tensor]) -> None:
        """Count the tags, and note classes without any."""
        present = tags[self.stream]
        self.counts.copy_(present.sum(dim=0))
        self.seen.copy_(self.counts > 0)
        names = self.task.class_map.names
        missing = [name for name, seen in zip(names, self.seen.tolist(), strict=True) if not seen]
        if missing:
            self.note(f"no tile is tagged {', '.join(missing)}: it is not learnt and no pseudo-mask shows it")

    def finished(self, layers: Tensor, batch: TileBatch) -> Tensor:
        """Return pseudo-masks (B, L, H, W) uint8 with white background and bought masks filled in."""
        if self.task.white is not None and batch.images is not None:
            label = self.task.white.label
            names = self.task.class_map.names
            white = torch.from_numpy(white_mask(batch.images.cpu().numpy(), self.task.white)).to(layers.device)
            value = IGNORE_LABEL if label is None else names.index(label)
            layers = layers.masked_fill(white[:, None], value)
        if batch.masks is not None:
            bought = (batch.masks != IGNORE_LABEL).flatten(1).any(dim=1)[:, None, None, None]
            layers = torch.where(bought, batch.masks[:, None].to(layers.dtype), layers)
        return layers


class TagClassification(_TagStage[ClassifierSettings]):
    """Stage that learns the tags of tiles and annotates tiles from its activation maps at three depths.

    ``L = mean over tiles, heads and classes with a positive tag of BCE(sigmoid(z), tag)``: the multi-label soft margin
    loss of the paper.
    """

    kind = "tissuebench.methods.tagging:TagClassification"
    half_precision = True  # scores are pooled in float32; activation maps are made without autocast

    def __init__(self, task: Task, config: ClassifierSettings) -> None:
        super().__init__(task, config)
        self.classifier = build_classifier(task, config)
        if self.brings_network(config) and config.classifier_weights is None:
            self.note("ResNet-38 starts from random weights: set classifier_weights to a file with the published ones")
        form = config.attention
        self._schedule = None if form is None else AttentionSchedule(form)

    @classmethod
    def brings_network(cls, config: ClassifierSettings) -> bool:
        """Whether the settings select the published ResNet-38."""
        return config.backbone is Architecture.PAPER

    @classmethod
    def allows_float16(cls, config: ClassifierSettings) -> bool:
        """Whether it does; the published ResNet-38 was never tried in float16."""
        return super().allows_float16(config) and not cls.brings_network(config)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the pseudo-masks."""
        return LAYERS

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the binary cross-entropy of all heads on classes that occur in some tile."""
        tiles = batch[self.stream]
        epoch = int(self.progress * self.config.attention_epochs)
        keep = None if self._schedule is None else self._schedule.keep(epoch)
        logits = self.classifier(tiles.inputs, keep, self.config.attention_divisor)
        return tag_loss(logits, tiles.tags, self.seen)

    def annotate(self, batch: TagBatch) -> Tensor:
        """Return pseudo-masks of the three depths, (B, 3, H, W) uint8.

        A tile with several tags but constant maps is uninformative and is not annotated.

        Raises:
            ValueError: the maps are not finite.
        """
        looks_through = self.config.maps is MapSource.GRAD_CAM or self.config.backbone is Architecture.PAPER
        size = cast("tuple[int, int]", tuple(batch.pixels.shape[-2:]))
        cams = self.classifier.activation_maps(batch.pixels if looks_through else batch.inputs, size)
        if not bool(cams.isfinite().all()):
            raise ValueError(
                "activation maps are not finite: the classifier diverged; lower classifier_training.learning_rate"
            )
        tags = batch.tags & self.seen
        layers = torch.stack([self._masks(cams[:, depth], tags) for depth in range(len(LAYERS))], dim=1)
        return self.finished(layers, batch)

    def _masks(self, cams: Tensor, tags: Tensor) -> Tensor:
        settings = self.config
        scores = min_max(cams, Scale.JOINT if settings.rule is Rule.JOINT else Scale.PER_CLASS)
        if settings.rule is Rule.SHARED_THRESHOLD:
            shared = ~torch.tensor(self.task.class_map.dependent, device=cams.device)
            masks = shared_threshold(cams, tags, shared, settings.threshold)
        else:
            masks = restricted_argmax(scores, tags, settings.absent)
        if settings.rule is Rule.BOTH:
            joint = restricted_argmax(min_max(cams, Scale.JOINT), tags, settings.absent)
            masks = agreement(torch.stack([masks, joint], dim=1))
        if settings.doubt and settings.maps is MapSource.HEADS:
            absent = ~tags[:, :, None, None]
            learnt = absent & self.seen[:, None, None]  # scores of classes that no tile shows are meaningless
            claimed = cams.masked_fill(~learnt, 0).amax(dim=1)
            masks = masks.masked_fill(claimed > cams.masked_fill(absent, 0).amax(dim=1), IGNORE_LABEL)
        highest = scores.amax(dim=(2, 3)).masked_fill(~tags, -torch.inf).amax(dim=1)
        lowest = scores.amin(dim=(2, 3)).masked_fill(~tags, torch.inf).amin(dim=1)
        says_nothing = (highest == lowest) & (tags.sum(dim=1) > 1)
        if bool(says_nothing.any()):
            self.note("some tiles with several tags have constant activation maps and get no pseudo-mask")
        return masks.masked_fill(says_nothing[:, None, None], IGNORE_LABEL)


def tag_loss(logits: Tensor, tags: Tensor, seen: Tensor) -> Tensor:
    """Return the binary cross-entropy over tiles, heads and the classes in ``seen``; 0 if there are none.

    Args:
        logits: (B, H, K).
        tags: (B, K) bool.
        seen: (K,) bool; the other classes are uninformative, as no tile has them.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = tags[:, None].expand_as(logits).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    counted = seen.expand_as(losses)
    return pooled(losses.masked_fill(~counted, 0).sum(), counted.sum())


class Fill(_TagStage[Settings]):
    """Stage that fills each tile with the rarest of its tags; nothing is trained.

    The baseline for any use of activation maps: the same labels without the method's idea.
    """

    kind = "tissuebench.methods.tagging:Fill"
    half_precision = True  # nothing is computed

    def __init__(self, task: Task, config: Settings) -> None:
        super().__init__(task, config)
        self.unused = nn.Parameter(torch.zeros(()))  # a stage has an optimiser, which needs a parameter

    @property
    def layers(self) -> tuple[str, ...]:
        """Name of its single pseudo-mask."""
        return ("fill",)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return 0; there is nothing to train."""
        return self.unused * 0

    def annotate(self, batch: TagBatch) -> Tensor:
        """Return masks of each tile's rarest class, (B, 1, H, W) uint8."""
        classes = fill(batch.tags, self.counts)
        height, width = batch.pixels.shape[-2:]
        return self.finished(classes[:, None, None, None].expand(-1, 1, height, width), batch)
