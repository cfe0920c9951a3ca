"""Mean teacher with weighted pseudo-labels and CutMix: the plain semi-supervised baseline.

Tarvainen & Valpola (NeurIPS 2017) with the consistency term of ReCo and ACTION (Liu et al., ICLR 2022; You et al., IPMI
2023): a teacher, the moving average of the student, labels tiles without masks; the student learns these labels from a
stronger view of mixed tiles, each tile weighted by the share of its pixels on which the teacher is confident.

    L = L_sup(annotated) + weight * L_u(unlabelled)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar, cast

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn

from tissuebench.common.settings import Later
from tissuebench.methods.api import (
    ANNOTATED,
    MaskBatch,
    Method,
    Own,
    Segmenter,
    Stage,
    Stream,
    StreamName,
    Supervision,
    Task,
    TileBatch,
    TrainingBatch,
    TrainingSettings,
    in_place_of,
    inherited,
    register,
)
from tissuebench.methods.losses.consistency import STRONG_THRESHOLD, weighted_consistency_loss
from tissuebench.methods.networks.action_unet import DecoderMaps
from tissuebench.methods.teacher_student.cut_mix import boxes_to_mask, cut_mixed, draw_boxes
from tissuebench.methods.teacher_student.mask_phase import MaskPhase, MaskPhaseSettings
from tissuebench.methods.teacher_student.networks import Inputs, MapsNetwork, build_network
from tissuebench.methods.teacher_student.stage import TeacherStudentSettings, TeacherStudentStage
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss

UNLABELLED = StreamName("unlabelled", TileBatch)
MASKS_ALONE = "masks_alone"


class ConsistencySettings(TeacherStudentSettings):
    """Settings for learning from the teacher's labels.

    Attributes:
        supervised_loss: loss on tiles with masks.
        strong: confidence threshold; a tile's weight is the share of its pixels with at least this teacher confidence.
        consistency: weight of the consistency term.
        warm_up: share of the steps that use masks alone, as an untrained teacher amplifies its own mistakes. Published:
            0, after other phases.
        cut_mix: whether to mix the unlabelled tiles of a batch.
        eight_bit_confidence: round the confidence down to a multiple of 1/255, so that thresholds of .97 and .7 are 248
            and 179 of 255 in effect. Published code of ACTION: true, as it passes through an 8-bit image
            (``augment.py``); paper: not stated.
        unlabelled_ratio: unlabelled tiles per annotated one. Stored results call it ``crowd``.
    """

    supervised_loss: SupervisedLoss = SupervisedLoss.CROSS_ENTROPY
    strong: float = Field(STRONG_THRESHOLD, gt=0, le=1)
    consistency: float = Field(1.0, ge=0)
    warm_up: float = Field(0.3, ge=0, le=1)
    cut_mix: bool = True
    eight_bit_confidence: Annotated[bool, Later(False)] = False
    unlabelled_ratio: int = Field(
        1, ge=1, le=16, validation_alias=AliasChoices("unlabelled_ratio", "crowd"), serialization_alias="crowd"
    )


ConsistencyT = TypeVar("ConsistencyT", bound=ConsistencySettings)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Teacher labels of unlabelled tiles, and the student's maps of the same tiles.

    Attributes:
        labels: (B, H, W) int64, the teacher's labels.
        confidence: (B, H, W) float32, the teacher's probability of these labels.
        maps: the student's maps of the mixed and stronger view.
        batch: the unlabelled tiles.
    """

    labels: Tensor
    confidence: Tensor
    maps: DecoderMaps
    batch: TileBatch


class ConsistencyMethod(Method[ConsistencyT], TeacherStudentStage[ConsistencyT]):
    """Base class of all methods with a mean teacher."""

    consumes = frozenset({Supervision.MASKS})
    half_precision = True  # confidences, cosines and the teacher's average are float32

    def __init__(self, task: Task, config: ConsistencyT) -> None:
        super().__init__(task, config)
        self.teach()

    def make_network(self) -> Segmenter:
        """Build the network that the settings select; the shared one starts from the same weights as in all methods."""
        return cast("Segmenter", build_network(self.task, self.config.network))

    @property
    def student(self) -> nn.Module:
        """The network that predicts."""
        return self.network

    @property
    def asks_teacher(self) -> bool:
        """Whether the loss uses the teacher's labels."""
        return self.config.consistency > 0

    def streams(self) -> Mapping[str, Stream]:
        """Return class-balanced annotated tiles, and tiles of all training patients, each sampled equally often."""
        if not self.asks_teacher:
            return {ANNOTATED: self.annotated_stream()}
        n_unlabelled = self.config.unlabelled_ratio * self.task.training.batch_size
        return {ANNOTATED: self.annotated_stream(), UNLABELLED: Stream(Supervision.NONE, n_unlabelled)}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the loss of the masks, plus the unsupervised loss after the warm-up."""
        annotated = batch[ANNOTATED]
        maps = self.maps_network.maps(annotated.inputs)
        loss = self.config.supervised_loss.of(maps.logits, annotated.masks)
        self.log("loss/masks", loss)
        if not self.asks_teacher or self.progress < self.config.warm_up:
            return loss
        lesson = self.lesson(batch[UNLABELLED])
        return loss + self.unsupervised_loss(maps, annotated, lesson)

    def unsupervised_loss(self, maps: DecoderMaps, annotated: MaskBatch, lesson: Lesson) -> Tensor:
        """Return all terms that are added to the loss of the masks; ``maps`` are those of the annotated tiles."""
        consistency = weighted_consistency_loss(
            lesson.maps.logits, lesson.labels, lesson.confidence, self.config.strong
        )
        self.log("loss/consistency", consistency)
        if self.logs_step:
            self.log("confident_pixels", (lesson.confidence >= self.config.strong).float().mean())
        return self.config.consistency * consistency

    def lesson(self, batch: TileBatch) -> Lesson:
        """Label the original tiles with the teacher, mix them, and run the student on a stronger view of the result."""
        confidence, labels = self.teacher_probabilities(batch.inputs).max(dim=1)
        if self.config.eight_bit_confidence:
            confidence = (confidence * 255).floor() / 255
        inputs = batch.inputs
        if self.config.cut_mix:
            height, width = labels.shape[-2:]
            boxes = batch.part_of(draw_boxes(batch.whole, height, width, torch.default_generator))
            boxes = boxes.to(labels.device, non_blocking=True)
            pasted = boxes_to_mask(boxes, height, width)
            labels, confidence = cut_mixed(labels, pasted), cut_mixed(confidence, pasted)
            if not isinstance(inputs, Tensor):  # cached features cover padded tiles
                height, width = (side + -side % self.maps_network.stride for side in (height, width))
                pasted = boxes_to_mask(boxes, height, width)
            inputs = cut_mixed(inputs, pasted)
        stronger = self.config.of(inputs, batch.offset, batch.whole)
        return Lesson(labels, confidence, self.maps_network.maps(stronger), batch)

    @property
    def maps_network(self) -> MapsNetwork:
        """The network that predicts, typed as a ``MapsNetwork``."""
        return cast("MapsNetwork", self.network)

    @torch.no_grad()
    def teacher_probabilities(self, inputs: Inputs) -> Tensor:
        """Return the teacher's class probabilities (B, K, H, W) float32."""
        logits: Tensor = self.teacher(inputs)
        return logits.float().softmax(dim=1)


@register
class MeanTeacher(ConsistencyMethod[ConsistencySettings]):
    """Masks of the budget, and a teacher's labels for all other tiles."""

    name = "mean_teacher"
    summary = "masks + an averaged teacher's labels of all tiles (semi-supervised baseline)"


class RestartedSettings(ConsistencySettings):
    """Settings of the mean teacher, which starts from a network that has learnt the masks.

    Attributes:
        masks_first: whether it does, or starts with the last stage.
        masks_training: training settings of the steps on masks alone in place of the plan's.
    """

    warm_up: float = Field(0.0, ge=0, le=1)
    masks_first: Annotated[bool, Later(True)] = True
    masks_training: Annotated[dict[str, Any], Own(TrainingSettings, formerly={"steps": "first_steps"}, steps=300)] = (
        inherited()
    )


@register
class RestartedMeanTeacher(ConsistencyMethod[RestartedSettings]):
    """Control of ``anatomical_contrast``: its annotated steps and rate cycles, without distillation and contrast.

    The plan's settings for ``anatomical_contrast`` apply here, too; its second phase is replaced by as many steps on
    the masks alone.
    """

    name = "mean_teacher_restarted"
    summary = "masks alone, then mean_teacher with a new rate cycle (control of anatomical_contrast)"
    controls = ()
    control_of: ClassVar[str] = "anatomical_contrast"

    @classmethod
    def planned_settings(cls, plan: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the settings of the method it controls, where they apply, with as many steps before the last stage."""
        theirs = plan.get(cls.control_of, {})
        shared = {key: value for key, value in theirs.items() if key in cls.Config.model_fields}
        if "local_training" in theirs:
            shared["masks_training"] = theirs["local_training"]
        elif "local_steps" in theirs:  # its former name
            shared["masks_training"] = {"steps": theirs["local_steps"]}
        if "local_distill" in theirs:
            shared["masks_first"] = theirs["local_distill"]
        if theirs.get("last_decay") is not None:
            shared["decay"] = theirs["last_decay"]
        return {**shared, **super().planned_settings(plan)}

    @classmethod
    def stages(cls, config: RestartedSettings, training: TrainingSettings) -> tuple[Stage, ...]:
        """Return the phase on masks alone, if it has steps."""
        if not config.masks_first:
            return ()
        settings = MaskPhaseSettings(network=config.network, supervised_loss=config.supervised_loss)
        own = in_place_of(training, config.masks_training, f"methods.{cls.name}.masks_training")
        return (Stage(MASKS_ALONE, MaskPhase, settings, own, cls.consumes),)

    def inherit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Initialise student and teacher from the phase on masks alone."""
        state, prefix = weights[MASKS_ALONE], "network."
        self.network.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()})
        self.teach()
