"""Anatomical contrastive distillation (ACTION: You et al., IPMI 2023; arXiv 2206.02307).

Three phases: distillation between unlabelled tiles; distillation between windows, with the masks of the budget; and a
mean teacher whose student also contrasts pixels:

    L = L_sup + consistency * L_u + contrast * L_c

The paper's gain over its baseline is measured against ``mean_teacher``, which is this method without L_c and the first
two phases, and against ``mean_teacher_restarted``, whose first phase takes as many steps on masks as the second phase
here. ``anatomical_contrast_published`` has the settings of the official code
(github.com/charlesyou999648/ACTION), each of them an option here. Its adversarial morphing of the student's
images is left out: the code calls a module that the repository does not contain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tissuebench.common.settings import Later
from tissuebench.datasets.loading.augment_settings import AugmentSettings, ColorJitter
from tissuebench.methods.api import (
    IGNORE_LABEL,
    MaskBatch,
    Own,
    RecipeSettings,
    Stage,
    Task,
    TrainingSettings,
    in_place_of,
    inherited,
    register,
)
from tissuebench.methods.api.whole_batch import n_processes
from tissuebench.methods.contrastive.distillation import WindowAnchors
from tissuebench.methods.contrastive.pixel_contrast import (
    candidates,
    pixel_contrast_loss,
    pixel_rows,
    prototypes,
    relation,
    sample,
)
from tissuebench.methods.contrastive.settings import (
    GlobalSettings,
    GlobalT,
    LocalSettings,
    LocalStart,
    TeacherHeads,
    Views,
)
from tissuebench.methods.contrastive.spread_pixels import SpreadPixels
from tissuebench.methods.contrastive.stages import GLOBAL, LOCAL, STUDENT, GlobalDistillation, LocalDistillation
from tissuebench.methods.mean_teacher import ConsistencyMethod, ConsistencySettings, Lesson
from tissuebench.methods.networks.action_unet import DecoderMaps, RepresentationHead, stacked
from tissuebench.methods.networks.settings import Architecture
from tissuebench.methods.teacher_student.networks import on_grid
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss
from tissuebench.methods.teacher_student.teacher import TeacherBuffers

_FORMERLY = {"steps": "global_steps", "batch_size": "global_batch"}


class AnatomicalContrastSettings(ConsistencySettings, LocalSettings):
    """Settings of all phases.

    Attributes:
        global_distill, local_distill: whether to run the first and the second phase.
        global_training, local_training: training settings of the first and the second phase in place of the plan's.
        last_decay: decay of the teacher in the last phase; null takes ``decay``. Published code: .9801, as it averages
            the same student twice, after its step and in the forward pass of the next one, by .99 each: together one
            update by .99 squared (its teacher labels between the two). Paper: .99.
        distillation_color, distillation_hue: ``color`` and ``hue`` of the first two phases; null takes those. Published
            code: .2 and .1; paper: not stated.
        contrast: weight of the pixel contrast. Published: .01.
        weak: minimum confidence of a teacher label for its pixel to be contrasted.
        queries, negatives: queries per class in each step, and negatives per query.
        temperature: temperature of the contrast.
        representation: dimension of the contrasted vectors.
        rep_stride: image pixels per contrasted vector, along an edge. Published: 1; ReCo, the origin of this loss,
            uses 4.
    """

    warm_up: float = Field(0.0, ge=0, le=1)
    global_distill: bool = True
    local_distill: bool = True
    global_training: Annotated[
        dict[str, Any],
        Own(
            TrainingSettings, formerly={"steps": "global_steps", "batch_size": "global_batch"}, steps=500, batch_size=16
        ),
    ] = inherited()
    local_training: Annotated[dict[str, Any], Own(TrainingSettings, formerly={"steps": "local_steps"}, steps=300)] = (
        inherited()
    )
    last_decay: Annotated[float | None, Later(None)] = Field(None, ge=0, le=1)
    distillation_color: Annotated[float | None, Later(None)] = Field(None, ge=0, le=0.9)
    distillation_hue: Annotated[float | None, Later(None)] = Field(None, ge=0, le=0.5)
    contrast: float = Field(0.1, ge=0)
    weak: float = Field(0.7, ge=0, le=1)
    queries: int = Field(256, ge=1)
    negatives: int = Field(512, ge=1)
    temperature: float = Field(0.5, gt=0)
    representation: int = Field(512, ge=1)
    rep_stride: Literal[1, 2, 4, 8, 16] = 4

    def of_phase(self, settings: type[GlobalT]) -> GlobalT:
        """Return the settings of one of the first two phases."""
        own = {"color": self.distillation_color, "hue": self.distillation_hue}
        shared = self.model_dump(include=set(settings.model_fields))
        return settings.model_validate(shared | {name: value for name, value in own.items() if value is not None})


@register
class AnatomicalContrast(ConsistencyMethod[AnatomicalContrastSettings]):
    """Distillation between tiles and windows, then masks, teacher labels and contrast between pixels."""

    name = "anatomical_contrast"
    summary = "distillation of tiles and windows, then masks + teacher's labels + pixel contrast (You et al.)"
    controls: ClassVar[tuple[str, ...]] = ("supervised", "mean_teacher", "mean_teacher_restarted", "full")

    def __init__(self, task: Task, config: AnatomicalContrastSettings) -> None:
        super().__init__(task, config)
        channels = self.maps_network.decoder_channels
        self.representation = RepresentationHead(channels, config.representation) if config.contrast else None

    @classmethod
    def stages(cls, config: AnatomicalContrastSettings, training: TrainingSettings) -> tuple[Stage, ...]:
        """Return the first two phases, if enabled; the first depends on the budget only if ``distils_annotated``."""
        made: list[Stage] = []
        if config.global_distill:
            own = in_place_of(training, config.global_training, f"methods.{cls.name}.global_training")
            consumes = cls.consumes if config.distils_annotated else frozenset()
            made.append(Stage(GLOBAL, GlobalDistillation, config.of_phase(GlobalSettings), own, consumes))
        if config.local_distill:
            own = in_place_of(training, config.local_training, f"methods.{cls.name}.local_training")
            local = config.of_phase(LocalSettings)
            needs = tuple(stage.name for stage in made)
            made.append(Stage(LOCAL, LocalDistillation, local, own, consumes=cls.consumes, needs=needs))
        return tuple(made)

    def inherit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Initialise student and teacher from the student of the last earlier phase, as published.

        Raises:
            ValueError: the weights belong to a different network.
        """
        state = weights[LOCAL if LOCAL in weights else GLOBAL]
        learnt = {name.removeprefix(STUDENT): value for name, value in state.items() if name.startswith(STUDENT)}
        try:
            self.network.load_state_dict(learnt)
        except RuntimeError as error:
            raise ValueError("the distilled weights are those of another network") from error
        self.teach()

    @property
    def decay(self) -> float:
        """Decay of the teacher's average in this phase."""
        return self.config.decay if self.config.last_decay is None else self.config.last_decay

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher labels tiles: always with the contrast, which includes pixels of tiles without masks."""
        return super().asks_teacher or self.representation is not None

    def unsupervised_loss(self, maps: DecoderMaps, annotated: MaskBatch, lesson: Lesson) -> Tensor:
        """Return consistency plus the contrast between all pixels with a true label or a confident teacher label."""
        loss = super().unsupervised_loss(maps, annotated, lesson)
        if self.representation is None:
            return loss
        confident = lesson.labels.masked_fill(lesson.confidence < self.config.weak, IGNORE_LABEL)
        seen = [self._contrasted(maps, annotated.masks), self._contrasted(lesson.maps, confident)]
        contrasted, labels, probabilities = (torch.cat(parts) for parts in zip(*seen, strict=True))
        places = torch.cat(
            [
                annotated.part_of(torch.arange(annotated.whole)),
                annotated.whole + lesson.batch.part_of(torch.arange(lesson.batch.whole)),
            ]
        )
        contrast = self.contrast_loss(contrasted, labels, probabilities, places)
        self.log("loss/contrast", contrast)
        return loss + self.config.contrast * contrast

    def contrast_loss(
        self, maps: Tensor, labels: Tensor, probabilities: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Return ``L_c`` for maps (B, C, h, w), labels (B, h, w) and the student's probabilities (B, K, h, w).

        Keys carry no gradient, so the dense vectors are computed without a graph; the queries are then recomputed with
        one. ``places`` are the positions (B,) of the images in the whole batch, by default those of a single process.
        """
        return self.contrast_of(self.vectors(maps), maps, labels, probabilities, places)

    @torch.no_grad()
    def vectors(self, maps: Tensor) -> Tensor:
        """Return the keys (B h w, D) of all pixels of maps (B, C, h, w), without gradient."""
        return pixel_rows(self._head(maps))

    def contrast_of(
        self, keys: Tensor, maps: Tensor, labels: Tensor, probabilities: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Return ``contrast_loss`` given the precomputed keys of the maps.

        Every process draws the same sample from the pixels of the whole batch and evaluates the queries in its images.
        """
        config, per_image = self.config, labels[0].numel()
        spread = None
        if n_processes() > 1:
            places = torch.arange(len(labels)) if places is None else places
            spread = SpreadPixels.of(places.to(labels.device))
            keys = spread.whole(keys.view(len(labels), per_image, -1)).flatten(0, 1)
            labels, probabilities = spread.whole(labels), spread.whole(probabilities)
        found = candidates(labels, probabilities, config.strong)
        means = prototypes(keys, labels, probabilities.shape[1])
        relations = relation(means, found.present, config.temperature)
        generator = _generator_of_step(labels.device)
        drawn = sample(found, relations, generator, config.queries, config.negatives)
        if spread is None:
            queries = self._head.at(maps, drawn.queries.flatten()).view(*drawn.queries.shape, keys.shape[1])
            return pixel_contrast_loss(queries, means, keys, drawn, config.temperature)
        own, numbers = spread.own(drawn.queries.flatten(), per_image)
        queries = self._head.at(maps, numbers)
        return pixel_contrast_loss(queries, means, keys, drawn, config.temperature, own)

    @property
    def _head(self) -> RepresentationHead:
        if self.representation is None:
            raise ValueError("contrast has weight 0: there is no head for it")
        return self.representation

    def _contrasted(self, maps: DecoderMaps, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps, labels and probabilities resampled to the grid of the contrasted vectors."""
        stride, step = self.maps_network.stride, self.config.rep_stride
        height, width = ((side + -side % stride) // step for side in labels.shape[-2:])
        probabilities = on_grid(maps.logits.detach(), (height, width), stride, 0).float().softmax(dim=1)
        return (
            stacked(maps.decoder, (height, width)),
            on_grid(labels, (height, width), stride, IGNORE_LABEL),
            probabilities,
        )


def _generator_of_step(device: torch.device) -> torch.Generator:
    """Return a generator on the device that is the same in all processes: millions of numbers are drawn where used."""
    if device.type == "cpu":
        return torch.default_generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


_SGD: dict[str, Any] = {  # all phases; --base_lr 0.01, --max_iterations 30000, power of the polynomial .9
    "steps": 30_000,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "rate_schedule": "polynomial",
    "gradient_clip": None,
}
_UNCHANGED: dict[str, Any] = {"orientations": "none", "color": 0.0, "hue": 0.0, "scale": 0.0, "blur": 0.0, "stain": 0.0}


@register
class PublishedAnatomicalContrast(AnatomicalContrast):
    """Settings of the official code; a comment names the file or argument, and the paper where it differs.

    What no comment says of the paper is not stated in the public notes on it.
    """

    class Config(AnatomicalContrastSettings, RecipeSettings):
        """Settings by the official code: ``train_2D_pretrain.py`` (phases 1 and 2), ``train_2D_action.py`` (3)."""

        # Network and teacher.
        network: Architecture = Architecture.PAPER  # networks/unetWithArgs.py: the paper's U-Net, random weights
        decay: float = Field(0.99, ge=0, le=1)  # model.py: m=0.99
        decay_warm_up: bool = False  # model.py, _momentum_update_key_encoder: constant
        last_decay: float | None = Field(0.9801, ge=0, le=1)  # phase 3: .99 twice per step
        teacher_buffers: TeacherBuffers = TeacherBuffers.OWN  # isd.train(), ema_model.train()
        teacher_heads: TeacherHeads = TeacherHeads.TRAINED  # model.py: k_*_head, without average

        # Views. training: tiles without geometric augmentation (commented out in dataloaders/dataset.py).
        views: Views = Views.OFFICIAL  # --combinations 2; paper: weak for the teacher, strong for the student
        color: float = Field(0.25, ge=0, le=0.9)  # phase 3, augment.py: .75 to 1.25
        hue: float = Field(0.25, ge=0, le=0.5)  # phase 3, augment.py
        distillation_color: float | None = Field(0.2, ge=0, le=0.9)  # phases 1, 2
        distillation_hue: float | None = Field(0.1, ge=0, le=0.5)  # phases 1, 2
        jitter: ColorJitter = ColorJitter.TORCHVISION  # all phases, ColorJitter
        color_probability: float = Field(0.5, ge=0, le=1)  # all phases
        blur: float = Field(1.15, ge=0, le=8)  # all phases
        blur_from: float = Field(0.15, ge=0, le=8)  # all phases
        blur_probability: float = Field(0.5, ge=0, le=1)  # all phases

        # Phases 1 and 2: distillation between tiles and between windows.
        global_distill: bool = True  # paper, stage i
        local_distill: bool = True  # paper, stage ii
        distils_annotated: bool = True  # TwoStreamBatchSampler, 3 + 3; paper: stage i is label-free
        queue: int = Field(36, ge=2)  # --K 36
        student_temperature: float = Field(0.1, gt=0)  # --T_s 0.1
        teacher_temperature: float = Field(0.01, gt=0)  # --T_t 0.01
        local_start: LocalStart = LocalStart.NETWORKS  # --resume loads both networks
        window_share: float = Field(0.25, gt=0, le=0.5)  # --cut_size 64 of 256; model.py: offsets 0 to 160
        anchors: WindowAnchors = WindowAnchors.OFFICIAL  # model.py, reshape
        global_weight: float = Field(1.0, ge=0)  # --k1 1
        local_weight: float = Field(1.0, ge=0)  # --k2 1

        # Phases 2 and 3.
        supervised_loss: SupervisedLoss = SupervisedLoss.CROSS_ENTROPY_DICE  # 0.5 * (loss_dice + loss_ce)

        # Phase 3: masks, teacher's labels and contrast.
        warm_up: float = Field(0.0, ge=0, le=1)  # no warm-up in the code
        strong: float = Field(0.97, gt=0, le=1)  # --strong_threshold
        weak: float = Field(0.7, ge=0, le=1)  # --weak_threshold
        eight_bit_confidence: bool = True  # augment.py, tensor_to_pil
        consistency: float = Field(1.0, ge=0)  # loss = args.k1*reco_loss + unsup_loss + supervised_loss
        cut_mix: bool = True  # train_2D.sh: --apply_aug cutmix (default of the argument: classmix)
        contrast: float = Field(0.01, ge=0)  # --k1 0.01
        queries: int = Field(256, ge=1)  # --num_queries
        negatives: int = Field(512, ge=1)  # --num_negatives
        temperature: float = Field(0.5, gt=0)  # --temp
        representation: int = Field(512, ge=1)  # model.py, RepresentationHead
        rep_stride: Literal[1, 2, 4, 8, 16] = 1  # F.interpolate to the size of the image

        # Training and tiles. Phases 1 and 2: 3 of 6 tiles have masks (--batch_size 6, --labeled_bs 3); phase 3: 4 + 4
        # (--batch_size 4; unlabelled_ratio stays 1; paper: 6). Paper: 100, 100 and 200 epochs.
        global_training: Annotated[dict[str, Any], Own(TrainingSettings, **_SGD, batch_size=6, sampling="shuffled")] = (
            inherited()
        )
        local_training: Annotated[dict[str, Any], Own(TrainingSettings, **_SGD, batch_size=3, sampling="shuffled")] = (
            inherited()
        )
        training: Annotated[
            dict[str, Any], Own(TrainingSettings, **_SGD, batch_size=4, sampling="uniform", nesterov=True)
        ] = inherited()
        augmentation: Annotated[dict[str, Any], Own(AugmentSettings, **_UNCHANGED)] = inherited()

    name = "anatomical_contrast_published"
    controls: ClassVar[tuple[str, ...]] = ("supervised", "full")  # the others follow the shared network and training
    summary = "the same with the settings of the official code and the paper's U-Net"
