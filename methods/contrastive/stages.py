"""First two phases of ACTION (You et al., IPMI 2023): distillation between tiles, then between windows of tiles.

The student sees a stronger view of a tile and learns how similar its teacher, the student's own moving average, finds
the tile to earlier ones. The first phase needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from tissuebench.methods.api import (
    ANNOTATED,
    Snapshot,
    Stream,
    StreamName,
    Supervision,
    Task,
    TileBatch,
    TrainingBatch,
)
from tissuebench.methods.contrastive.distillation import (
    STUDENT_TEMPERATURE,
    TEACHER_TEMPERATURE,
    WindowAnchors,
    distillation_loss,
    window_distillation_loss,
)
from tissuebench.methods.contrastive.heads import GlobalHead, GlobalPredictor, LocalHead, LocalPredictor
from tissuebench.methods.contrastive.key_queue import KeyQueue
from tissuebench.methods.contrastive.windows import window_offsets, windows
from tissuebench.methods.networks.action_unet import DecoderMaps, stacked
from tissuebench.methods.teacher_student.networks import Inputs, build_network
from tissuebench.methods.teacher_student.stage import TeacherStudentSettings, TeacherStudentStage
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss

GLOBAL, LOCAL = "global_distill", "local_distill"
TISSUE = StreamName("tissue", TileBatch)
STUDENT = "pupil.network."
"""Prefix of the names of the student network's weights in a stage's state."""
_VECTOR, _POOL = 512, 8


class GlobalSettings(TeacherStudentSettings):
    """Settings that the first phase depends on.

    Attributes:
        queue: number of earlier tiles that a tile is compared with.
        student_temperature, teacher_temperature: temperatures of the similarities.
    """

    queue: int = Field(36, ge=2)
    student_temperature: float = Field(STUDENT_TEMPERATURE, gt=0)
    teacher_temperature: float = Field(TEACHER_TEMPERATURE, gt=0)


class LocalSettings(GlobalSettings):
    """Settings that the second phase depends on.

    Attributes:
        supervised_loss: loss on tiles with masks.
        window_share: edge length of a window relative to that of a tile; windows overlap by half.
        anchors: keys that a window is compared with.
        global_weight, local_weight: weights of the two distillation losses relative to the loss on masks.
    """

    supervised_loss: SupervisedLoss = SupervisedLoss.CROSS_ENTROPY
    window_share: float = Field(0.25, gt=0, le=0.5)
    anchors: WindowAnchors = WindowAnchors.SAME_WINDOW
    global_weight: float = Field(1.0, ge=0)
    local_weight: float = Field(1.0, ge=0)


GlobalT = TypeVar("GlobalT", bound=GlobalSettings)


class StudentWithHeads(nn.Module):
    """A network with the heads that turn its maps into vectors.

    Args:
        task: task of the stage.
        settings: settings that choose the network.
        local: whether to add the head for windows.
    """

    def __init__(self, task: Task, settings: TeacherStudentSettings, local: bool) -> None:
        super().__init__()
        self.network = build_network(task, settings.network)
        self.global_head = GlobalHead(self.network.deepest_channels, out=_VECTOR)
        self.local_head = LocalHead(len(task.class_map), _POOL) if local else None

    def tile_vectors(self, inputs: Inputs) -> Tensor:
        """Return vectors (B, 512) of images or cached features."""
        return cast("Tensor", self.global_head(self.network.deepest(inputs)))


class TileDistillation(TeacherStudentStage[GlobalT]):
    """Base class of both phases: the student learns the teacher's similarities between a tile and earlier tiles.

    Attributes:
        pupil: the student; stored weights carry this name.
    """

    def __init__(self, task: Task, config: GlobalT) -> None:
        super().__init__(task, config)
        self.pupil = StudentWithHeads(task, config, local=isinstance(config, LocalSettings))
        self.predictor = GlobalPredictor(_VECTOR)
        self.queue = KeyQueue(config.queue, (_VECTOR,), torch.default_generator)
        self.teach()

    @property
    def student(self) -> nn.Module:
        """Network and heads of the student; the predictor has no counterpart in the teacher."""
        return self.pupil

    @property
    def teaching(self) -> StudentWithHeads:
        """Network and heads of the teacher."""
        return cast("StudentWithHeads", self.teacher.module)

    def streams(self) -> Mapping[str, Stream]:
        """Return one stream: unlabelled tissue of all training patients, each sampled equally often."""
        return {TISSUE: Stream(Supervision.NONE, self.task.training.batch_size)}

    def distilled(self, vectors: Tensor, keys: Tensor) -> Tensor:
        """Return the loss of the student's vectors (B, 512), then push the teacher's keys (B, 512) to the queue."""
        loss = distillation_loss(self.predictor(vectors), keys, self.queue.keys, *self.temperatures)
        self.queue.push(keys)
        return loss

    def stronger(self, tissue: TileBatch) -> Inputs:
        """Return the view of the tiles that the student sees."""
        return self.config.of(tissue.inputs, tissue.offset, tissue.whole)

    @property
    def temperatures(self) -> tuple[float, float]:
        """Temperatures of student and teacher."""
        return self.config.student_temperature, self.config.teacher_temperature

    def snapshot(self, images: Tensor, generator: torch.Generator) -> Snapshot:
        """Return a snapshot that pairs each tile with the other tile that the student finds most similar."""
        vectors = nn.functional.normalize(self.pupil.tile_vectors(images).float(), dim=1)
        similarity = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
        shown = images.float() / 255
        pairs = max(1, len(images) * (len(images) - 1))
        distance = 1 - similarity.masked_fill(similarity.isinf(), 0).sum() / pairs
        nearest = shown[similarity.max(dim=1).indices]
        return Snapshot({"mean_cosine_distance": float(distance)}, {"image": shown, "most similar": nearest})

    def maps(self, images: Tensor) -> Tensor:
        """Return all maps of the student's decoder, stacked at a quarter of the image's size."""
        maps = self.pupil.network.maps(images)
        size = tuple(-(-side // 4) for side in images.shape[-2:])
        return stacked(maps.decoder, cast("tuple[int, int]", size))


class GlobalDistillation(TileDistillation[GlobalSettings]):
    """First phase: ``L_g``, the distillation between tiles, without labels."""

    kind = "tissuebench.methods.contrast.stages:GlobalDistillation"

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the distillation loss of the tiles."""
        tissue = batch[TISSUE]
        with torch.no_grad():
            keys = self.teaching.tile_vectors(tissue.inputs)
        return self.distilled(self.pupil.tile_vectors(self.stronger(tissue)), keys)


class LocalDistillation(TileDistillation[LocalSettings]):
    """Second phase: ``L = L_sup + k_g L_g + k_l L_l``, masks plus distillation of tiles and of windows of their logits.

    In the official code half of each batch is annotated and the whole batch is distilled; here the distilled tiles come
    from all training patients, each sampled equally often.
    """

    kind = "tissuebench.methods.contrast.stages:LocalDistillation"

    def __init__(self, task: Task, config: LocalSettings) -> None:
        super().__init__(task, config)
        n_classes = len(task.class_map)
        self.window = max(2, round(task.tile_px * self.config.window_share))
        n_windows = len(window_offsets(task.tile_px, self.window, self.window // 2))
        self.window_predictor = LocalPredictor(n_classes)
        self.window_queue = KeyQueue(self.config.queue, (n_windows, n_classes * _POOL * _POOL), torch.default_generator)

    def streams(self) -> Mapping[str, Stream]:
        """Return class-balanced annotated tiles, and unlabelled tissue of all training patients."""
        return {ANNOTATED: Stream(Supervision.MASKS, self.task.training.batch_size), **super().streams()}

    def inherit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Initialise student, teacher, predictor and queue from the first phase.

        Raises:
            ValueError: the weights belong to a different network.
        """
        given = weights[GLOBAL]
        own = {
            name: value
            for name, value in self.state_dict().items()
            if "local_head" in name or name.startswith("window_")
        }
        try:
            self.load_state_dict({**given, **own})
        except RuntimeError as error:
            raise ValueError("the distilled weights are those of another network") from error

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the sum of all three losses."""
        annotated, tissue = batch[ANNOTATED], batch[TISSUE]
        logits = self.pupil.network.maps(annotated.inputs).logits
        loss = self.config.supervised_loss.of(logits, annotated.masks)
        with torch.no_grad():
            taught = self.teaching.network.maps(tissue.inputs)
            keys, window_keys = self.teaching.global_head(taught.deepest), self.window_vectors(self.teaching, taught)
        learnt = self.pupil.network.maps(self.stronger(tissue))
        tiles = self.distilled(self.pupil.global_head(learnt.deepest), keys)
        vectors = self.window_predictor(self.window_vectors(self.pupil, learnt))
        local = window_distillation_loss(
            vectors, window_keys, self.window_queue.keys, *self.temperatures, self.config.anchors
        )
        self.window_queue.push(window_keys)
        self.log_dict({"loss/masks": loss, "loss/tiles": tiles, "loss/windows": local})
        return loss + self.config.global_weight * tiles + self.config.local_weight * local

    def window_vectors(self, pupil: StudentWithHeads, maps: DecoderMaps) -> Tensor:
        """Return vectors (B, W, 64 K) of the windows of logits."""
        assert pupil.local_head is not None  # noqa: S101 - built with local=True
        return cast("Tensor", pupil.local_head(windows(maps.logits, self.window, self.window // 2)))
