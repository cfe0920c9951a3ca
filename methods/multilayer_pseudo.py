"""Multi-layer pseudo-supervision from tile tags (Han et al., Med. Image Anal. 80, 102487, 2022; arXiv 2110.08048).

A classifier learns the tags of tiles. Its activation maps at three depths, restricted to the tagged classes, become
three pseudo-masks per tile. A segmenter learns from their weighted sum,

    L = sum over l of w_l CE(pseudo-mask l)

and at prediction the classifier can switch off classes that it considers absent (the gate). Masks bought with the
budget replace a tile's pseudo-masks. The defaults are this project's; ``multilayer_pseudo_published`` has those of the
paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tissuebench.common.settings import Later
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.errors import ConfigError
from tissuebench.methods.api import (
    Encoded,
    Method,
    Own,
    PseudoMaskBatch,
    RecipeSettings,
    Segmenter,
    Stage,
    Stream,
    StreamName,
    Supervision,
    Task,
    TrainingBatch,
    TrainingSettings,
    in_place_of,
    inherited,
    register,
)
from tissuebench.methods.losses.multi_target import MultiTarget, multi_target_cross_entropy
from tissuebench.methods.networks.paper_deeplab import DeepLabWeights, PaperSegmenter
from tissuebench.methods.networks.settings import Architecture, Weights
from tissuebench.methods.networks.weights_file import without_files
from tissuebench.methods.pseudo_labels.attention_dropout import DropoutForm
from tissuebench.methods.pseudo_labels.gate import GateOn, gate, official_gate
from tissuebench.methods.pseudo_labels.pseudo_masks import Absent, agreement
from tissuebench.methods.pseudo_labels.tag_classifier import LAYERS, MapSource, TagClassifier
from tissuebench.methods.pseudo_labels.tag_stages import (
    ClassifierSettings,
    Fill,
    Rule,
    TagClassification,
    build_classifier,
)

CLASSIFY, FILL = "classify_tags", "fill_tags"
PSEUDO = StreamName("pseudo", PseudoMaskBatch)


class Source(StrEnum):
    """Source of the pseudo-masks: activation maps, or each tile filled with its rarest class."""

    MAPS = "maps"
    FILL = "fill"


_FORMERLY = {"steps": "classifier_steps", "batch_size": "classifier_batch", "learning_rate": "classifier_rate"}


class MultilayerPseudoSettings(ClassifierSettings):
    """Settings of the method, in addition to those of the classifier.

    Attributes:
        source: ``fill`` needs no classifier; ``layers`` and all classifier settings then have no effect.
        layers: depths whose pseudo-masks are used, from shallow to deep.
        weights: weights of these layers; they add up to 1. Published: .2, .2, .6 from shallow to deep.
        agree: learn only from pixels on which all ``layers`` agree; ``weights`` then has no effect.
        loss: ``valid`` leaves ignored pixels out, ``official`` follows the published code.
        gate: classes with at most this classifier probability are switched off at prediction; null disables the gate.
            Published: .1.
        gate_on: what the gate multiplies; see ``GateOn``.
        segmenter_weights: file with a checkpoint of the paper's DeepLabV3+, whose last layer is drawn anew; null starts
            its ResNet-101 from ImageNet weights if ``network.weights`` is ``timm``, else everything at random.
        mask_share: share of a budget in minutes that is spent on masks, the rest on tags.
        classifier_training: training settings of the classifier in place of the plan's.
        classifier_augmentation: its augmentation settings in place of the plan's.
    """

    source: Source = Source.MAPS
    layers: tuple[Literal["shallow", "middle", "deep"], ...] = Field(("middle", "deep"), min_length=1)
    weights: tuple[float, ...] = (0.5, 0.5)
    agree: bool = True
    loss: MultiTarget = MultiTarget.VALID
    gate: float | None = Field(None, ge=0, lt=1)
    gate_on: Annotated[GateOn, Later(GateOn.PROBABILITIES)] = GateOn.PROBABILITIES
    segmenter_weights: Annotated[DeepLabWeights | None, Later(None)] = None
    mask_share: float = Field(0.0, ge=0, le=1)
    classifier_training: Annotated[
        dict[str, Any], Own(TrainingSettings, formerly=_FORMERLY, steps=500, batch_size=32, learning_rate=2e-3)
    ] = inherited()
    classifier_augmentation: Annotated[dict[str, Any], Own(AugmentSettings)] = inherited()

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if len(set(self.layers)) != len(self.layers) or len(self.weights) != len(self.layers):
            raise ValueError(f"{len(self.weights)} weights for the layers {', '.join(self.layers)}")
        if list(self.layers) != [layer for layer in LAYERS if layer in self.layers]:
            raise ValueError(f"layers {', '.join(self.layers)}: order them from shallow to deep")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"weights {', '.join(map(str, self.weights))}: they must be non-negative and sum to 1")
        return self

    @model_validator(mode="after")
    def _segmenter_weights_have_their_network(self) -> Self:
        if self.segmenter_weights is not None and self.backbone is not Architecture.PAPER:
            raise ValueError("segmenter_weights are those of DeepLabV3+ and need backbone: paper")
        return self


@register
class MultilayerPseudo(Method[MultilayerPseudoSettings]):
    """Pseudo-masks at three depths from a tag classifier, and a segmenter trained on them."""

    name = "multilayer_pseudo"
    summary = "tags of tiles -> activation maps at three depths -> pseudo-masks (after Han et al.)"
    consumes = frozenset({Supervision.TAGS, Supervision.MASKS})
    controls: ClassVar[tuple[str, ...]] = ("supervised", "tag_fill", "full")
    predicts_features = True
    half_precision = True  # one log-softmax in float32 for all layers
    seen: Tensor

    def __init__(self, task: Task, config: MultilayerPseudoSettings) -> None:
        super().__init__(task, config)
        self.classifier: TagClassifier | None = None
        self.register_buffer("seen", torch.ones(len(task.class_map), dtype=torch.bool))
        if self.config.gate is not None and self.config.source is Source.MAPS:
            # The weights that it inherits replace all that a file holds.
            self.classifier = build_classifier(task, without_files(self.config)).requires_grad_(False).eval()

    def make_network(self) -> Segmenter:
        """Build the network that the settings select.

        Raises:
            ConfigError: the paper's network with a batch of one tile, or its weights are not available.
        """
        if not self.brings_network(self.config):
            return super().make_network()
        task, file = self.task, self.config.segmenter_weights
        if task.training.batch_size < 2:
            raise ConfigError(
                f"training.batch_size 1: methods.{self.name}.backbone 'paper' normalises over the batch and needs at "
                "least 2"
            )
        is_pretrained = task.network.weights == Weights.TIMM
        if file is None and not is_pretrained:
            self.note(f"DeepLabV3+ starts from random weights: set methods.{self.name}.segmenter_weights to a file")
        # It takes images, and no features are ever requested for it.
        return cast("Segmenter", PaperSegmenter(len(task.class_map), is_pretrained, file))

    @classmethod
    def brings_network(cls, config: MultilayerPseudoSettings) -> bool:
        """Whether the settings select the published networks."""
        return config.backbone is Architecture.PAPER

    @classmethod
    def allows_float16(cls, config: MultilayerPseudoSettings) -> bool:
        """Whether it does; the published DeepLabV3+ was never tried in float16."""
        return super().allows_float16(config) and not cls.brings_network(config)

    @classmethod
    def spending(cls, config: MultilayerPseudoSettings) -> Mapping[Supervision, float]:
        """Return shares of the budget: ``mask_share`` for masks, the rest for tags."""
        shares = {Supervision.MASKS: config.mask_share, Supervision.TAGS: 1 - config.mask_share}
        return {kind: share for kind, share in shares.items() if share}

    @classmethod
    def epoch_tiles(cls, config: MultilayerPseudoSettings) -> Supervision:
        """Return tags: the tiles that it learns from are those with tags, whatever is spent on masks."""
        return Supervision.TAGS

    @classmethod
    def stages(cls, config: MultilayerPseudoSettings, training: TrainingSettings) -> tuple[Stage, ...]:
        """Return the stage that makes pseudo-masks: the tag classifier, or the one that fills tiles."""
        if config.source is Source.FILL:
            once = in_place_of(training, {"steps": 1})
            return (Stage(FILL, Fill, Fill.Config(), once, cls.consumes, annotates=Fill.stream),)
        settings = ClassifierSettings.model_validate(config.model_dump(include=set(ClassifierSettings.model_fields)))
        return (
            Stage(
                CLASSIFY,
                TagClassification,
                settings,
                in_place_of(training, config.classifier_training, f"methods.{cls.name}.classifier_training"),
                cls.consumes,
                annotates=TagClassification.stream,
                augmentation=config.classifier_augmentation,
                epoch_of=Supervision.TAGS,
            ),
        )

    def inherit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load the trained classifier if the gate needs it."""
        if self.classifier is None:
            return
        state = weights[CLASSIFY]
        prefix = "classifier."
        self.classifier.load_state_dict(
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        )
        self.seen.copy_(state["seen"])

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, but keep the classifier in evaluation mode."""
        super().train(mode)
        if self.classifier is not None:
            self.classifier.eval()
        return self

    def streams(self) -> Mapping[str, Stream]:
        """Return one stream: tiles with pseudo-masks, balanced by tag."""
        stage = FILL if self.config.source is Source.FILL else CLASSIFY
        return {PSEUDO: Stream(Supervision.TAGS, self.task.training.batch_size, pseudo=stage)}

    @property
    def is_annotated(self) -> bool:
        """Whether bought masks are among the pseudo-masks."""
        return self.config.mask_share > 0

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the weighted sum over the layers, or the loss on the pixels where they agree."""
        tiles, config = batch[PSEUDO], self.config
        targets, weights = tiles.pseudo_masks, config.weights
        if config.source is Source.FILL:
            weights = (1.0,)
        else:
            targets = torch.stack([targets[:, LAYERS.index(layer)] for layer in config.layers], dim=1)
            if config.agree and len(config.layers) > 1:
                targets, weights = agreement(targets)[:, None], (1.0,)
        return multi_target_cross_entropy(self.network(tiles.inputs), targets, weights, config.loss)

    def predict(self, images: Tensor | Encoded) -> Tensor:
        """Return class probabilities, gated if the settings enable the gate."""
        if self.classifier is None or self.config.gate is None:
            return super().predict(images)
        scores = self.classifier(images)[:, -1].sigmoid() * self.seen
        if self.config.gate_on is GateOn.LOGITS:
            return official_gate(self.network(images).float(), scores, self.config.gate).softmax(dim=1)
        return gate(super().predict(images), scores, self.config.gate)


class PublishedMapsSettings(MultilayerPseudoSettings):
    """Settings of the published maps, masks and loss weights, in the form of the article."""

    maps: MapSource = MapSource.GRAD_CAM
    rule: Rule = Rule.JOINT
    doubt: bool = False
    top_share: float = Field(1.0, gt=0, le=1)
    attention: DropoutForm | None = DropoutForm.PAPER
    layers: tuple[Literal["shallow", "middle", "deep"], ...] = Field(("shallow", "middle", "deep"), min_length=1)
    weights: tuple[float, ...] = (0.2, 0.2, 0.6)
    agree: bool = False
    gate: float | None = Field(0.1, ge=0, lt=1)


@register
class PublishedMaps(MultilayerPseudo):
    """The paper's maps, masks and loss weights on the network, optimiser and steps that all methods share."""

    class Config(PublishedMapsSettings):
        """Settings of the article."""

    name = "multilayer_pseudo_maps"
    summary = "the same with the paper's maps alone: Grad-CAM, dropout attention, weights .2/.2/.6, gate"


_SGD: dict[str, Any] = {  # 1_train_stage1.py, 3_train_stage2.py; the polynomial's power .9 in both
    "batch_size": 20,
    "sampling": "shuffled",
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "head_rate": 10.0,
    "weight_decay": 5e-4,
    "rate_schedule": "polynomial",
    "gradient_clip": None,
}
_PLAIN: dict[str, Any] = {"color": 0.0, "hue": 0.0, "scale": 0.0, "stain": 0.0}


@register
class PublishedMultilayerPseudo(MultilayerPseudo):
    """Published recipe: ResNet-38 and DeepLabV3+, both optimisers, epochs and augmentation, losses and gate.

    Its networks start from published weights (``classifier_weights``, ``segmenter_weights``); without these files it
    trains from random weights, which is not the published recipe, and says so.
    """

    class Config(PublishedMapsSettings, RecipeSettings):
        """Settings of the official code; where it differs from the article, a comment names both."""

        backbone: Architecture = Architecture.PAPER
        attention: DropoutForm | None = (
            DropoutForm.OFFICIAL
        )  # factor .98 from epoch 0 on; article: .985 from epoch 3 on
        attention_epochs: int = Field(20, ge=1)
        attention_divisor: int | None = Field(4, ge=1)  # whatever the number of classes; article: that number
        absent: Absent = Absent.ZERO  # article: not stated
        loss: MultiTarget = MultiTarget.OFFICIAL  # article: cross-entropy
        gate_on: GateOn = GateOn.LOGITS  # article: probabilities
        classifier_training: Annotated[
            dict[str, Any],
            Own(
                TrainingSettings, **_SGD, epochs=20, drop_last=True, momentum=5e-4
            ),  # by a slip of the code; article: not stated
        ] = inherited()
        classifier_augmentation: Annotated[
            dict[str, Any], Own(AugmentSettings, **_PLAIN, orientations="flips", blur=0.0)
        ] = inherited()
        training: Annotated[dict[str, Any], Own(TrainingSettings, **_SGD, epochs=30, momentum=0.9)] = inherited()
        augmentation: Annotated[
            dict[str, Any],
            Own(AugmentSettings, **_PLAIN, orientations="horizontal", blur=1.0, blur_probability=0.5),
        ] = inherited()

    name = "multilayer_pseudo_published"
    summary = "the published recipe: ResNet-38, Grad-CAM, DeepLabV3+, SGD, 20 and 30 epochs (Han et al.)"


@register
class TagFill(MultilayerPseudo):
    """Control that fills each tile with its rarest tag: the same labels without the method's idea."""

    class Config(MultilayerPseudoSettings):
        """Settings of the method, with ``source: fill``."""

        source: Source = Source.FILL

    name = "tag_fill"
    summary = "each tile filled with its rarest tag (control of multilayer_pseudo)"
    controls = ()
