"""First two phases of ACTION (You et al., IPMI 2023): distillation between tiles, then between windows of tiles.

The student sees a stronger view of a tile and learns how similar its teacher, the student's own moving average, finds
the tile to earlier ones. The first phase needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from tissuebench.errors import ConfigError
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
from tissuebench.methods.api.whole_batch import gathered, in_batch_order, samples_at
from tissuebench.methods.contrastive.distillation import (
    WindowAnchors,
    distillation_loss,
    official_order,
    window_distillation_loss,
)
from tissuebench.methods.contrastive.heads import GlobalHead, GlobalPredictor, LocalHead, LocalPredictor
from tissuebench.methods.contrastive.key_queue import KeyQueue
from tissuebench.methods.contrastive.settings import (
    GlobalSettings,
    GlobalT,
    LocalSettings,
    LocalStart,
    TeacherHeads,
    Views,
)
from tissuebench.methods.contrastive.windows import window_offsets, windows
from tissuebench.methods.networks.action_unet import DecoderMaps, stacked
from tissuebench.methods.teacher_student.networks import Inputs, build_network
from tissuebench.methods.teacher_student.stage import TeacherStudentSettings, TeacherStudentStage

GLOBAL, LOCAL = "global_distill", "local_distill"
TISSUE = StreamName("tissue", TileBatch)
STUDENT = "pupil.network."
"""Prefix of the names of the student network's weights in a stage's state."""
_VECTOR, _POOL = 512, 8


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
        self._n_classes, self._local = len(task.class_map), local
        self.renew_heads()

    def renew_heads(self) -> None:
        """Create new heads with random weights."""
        self.global_head = GlobalHead(self.network.deepest_channels, out=_VECTOR)
        self.local_head = LocalHead(self._n_classes, _POOL) if self._local else None

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

    def teach(self) -> None:
        """Create a teacher equal to the student, except for heads that are trained."""
        super().teach()
        if self.config.teacher_heads is TeacherHeads.TRAINED:
            self.teaching.renew_heads()

    @property
    def student(self) -> nn.Module:
        """Network and heads of the student; the predictor has no counterpart in the teacher."""
        return self.pupil

    @property
    def teaching(self) -> StudentWithHeads:
        """Network and heads of the teacher."""
        return cast("StudentWithHeads", self.teacher.module)

    def streams(self) -> Mapping[str, Stream]:
        """Return unlabelled tissue of all training patients, each sampled equally often."""
        return {TISSUE: Stream(Supervision.NONE, self.task.training.batch_size)}

    def distilled_tiles(self, batch: TrainingBatch) -> tuple[TileBatch, ...]:
        """Return the parts of the batch that are distilled, in the colours that student and teacher share."""
        parts: list[TileBatch] = [batch[ANNOTATED]] if self.config.distils_annotated else []
        parts.append(batch[TISSUE])
        if self.config.views is Views.STUDENT_STRONG:
            return tuple(parts)
        return tuple(
            _showing(part, self.config.of(part.inputs, part.offset, part.whole, blurs=False)) for part in parts
        )

    def taught(self, parts: Sequence[TileBatch]) -> Inputs:
        """Return the teacher's view of the parts."""
        if self.config.views is Views.STUDENT_STRONG:
            return _joined([part.inputs for part in parts])
        return _joined([self.config.of(part.inputs, part.offset, part.whole, colors=False) for part in parts])

    def learnt(self, parts: Sequence[TileBatch]) -> Inputs:
        """Return the student's view of the parts."""
        if self.config.views is Views.OFFICIAL:
            return _joined([part.inputs for part in parts])
        return _joined([self.config.of(part.inputs, part.offset, part.whole) for part in parts])

    def distilled(self, vectors: Tensor, keys: Tensor, places: Tensor | None) -> Tensor:
        """Return the loss of the student's vectors (B, 512), then push the teacher's keys (B, 512) to the queue."""
        predicted = self.predictor(vectors)
        loss = distillation_loss(predicted, keys, self.queue.keys, *self.temperatures, self.teacher_learns)
        self.queue.push(keys, places)
        return loss

    @property
    def teacher_learns(self) -> bool:
        """Whether the teacher's heads are trained."""
        return self.config.teacher_heads is TeacherHeads.TRAINED

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
    half_precision = True  # similarities at a temperature of .01 are computed without autocast

    def streams(self) -> Mapping[str, Stream]:
        """Return tissue of all training patients; half of it the tiles with masks, if these are distilled.

        Raises:
            ConfigError: there is a single tile, which has no half.
        """
        if not self.config.distils_annotated:
            return super().streams()
        size = self.task.training.batch_size
        if size < 2:
            raise ConfigError("distils_annotated halves the batch of the first phase; it needs at least 2 tiles, not 1")
        annotated = Stream(Supervision.MASKS, size // 2, balanced=False)  # the classes of the masks are not used
        return {ANNOTATED: annotated, TISSUE: Stream(Supervision.NONE, size - size // 2)}

    @property
    def is_annotated(self) -> bool:
        """False: masks choose tiles, but nothing is learnt from them."""
        return False

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the distillation loss of the tiles."""
        parts = self.distilled_tiles(batch)
        places = _places(parts)
        with samples_at(places):
            with torch.no_grad():
                deepest = self.teaching.network.deepest(self.taught(parts))
            vectors = self.pupil.tile_vectors(self.learnt(parts))
        return self.distilled(vectors, self.teaching.global_head(deepest), places)


class LocalDistillation(TileDistillation[LocalSettings]):
    """Second phase: ``L = L_sup + k_g L_g + k_l L_l``, masks plus distillation of tiles and of windows of their logits.

    In the official code half of each batch is annotated and the whole batch is distilled (``distils_annotated``); by
    default the distilled tiles come from all training patients, each sampled equally often.
    """

    kind = "tissuebench.methods.contrast.stages:LocalDistillation"
    half_precision = True  # similarities at a temperature of .01 are computed without autocast

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
        """Initialise student, teacher, predictor and queue from the first phase, or the networks alone.

        Raises:
            ValueError: the weights belong to a different network.
        """
        given = weights[GLOBAL]
        if self.config.local_start is LocalStart.NETWORKS:
            of_networks = STUDENT, f"teacher.module.{STUDENT.removeprefix('pupil.')}"
            given = {name: value for name, value in given.items() if name.startswith(of_networks)}
        try:
            self.load_state_dict({**self._new_parts(), **given})
        except RuntimeError as error:
            raise ValueError("the distilled weights are those of another network") from error

    def _new_parts(self) -> Mapping[str, Tensor]:
        """Return the state of the parts that do not come from the first phase."""
        state = self.state_dict()
        if self.config.local_start is LocalStart.NETWORKS:
            return {name: value for name, value in state.items() if ".network." not in name}
        return {name: value for name, value in state.items() if "local_head" in name or name.startswith("window_")}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the sum of all three losses."""
        annotated, config = batch[ANNOTATED], self.config
        if not config.distils_annotated:
            loss = config.supervised_loss.of(self.pupil.network.maps(annotated.inputs).logits, annotated.masks)
        parts = self.distilled_tiles(batch)
        places = _places(parts)
        with samples_at(places):
            with torch.no_grad():
                taught = self.teaching.network.maps(self.taught(parts))
            learnt = self.pupil.network.maps(self.learnt(parts))
        keys, window_keys = self.teaching.global_head(taught.deepest), self.window_vectors(self.teaching, taught)
        if config.distils_annotated:
            loss = config.supervised_loss.of(learnt.logits[: len(annotated.masks)], annotated.masks)
        tiles = self.distilled(self.pupil.global_head(learnt.deepest), keys, places)
        vectors = self.window_predictor(self.window_vectors(self.pupil, learnt))
        queue = self.window_queue.keys
        local = window_distillation_loss(
            vectors, window_keys, queue, *self.temperatures, config.anchors, self.teacher_learns, places
        )
        self._push(window_keys, places)
        self.log_dict({"loss/masks": loss, "loss/tiles": tiles, "loss/windows": local})
        return loss + config.global_weight * tiles + config.local_weight * local

    def _push(self, window_keys: Tensor, places: Tensor | None) -> None:
        """Push the keys of the windows in the order that the anchors ask for."""
        if self.config.anchors is WindowAnchors.OFFICIAL:
            self.window_queue.store(official_order(in_batch_order(torch.cat(gathered(window_keys)), places)))
        else:
            self.window_queue.push(window_keys, places)

    def window_vectors(self, pupil: StudentWithHeads, maps: DecoderMaps) -> Tensor:
        """Return vectors (B, W, 64 K) of the windows of logits."""
        assert pupil.local_head is not None  # noqa: S101 - built with local=True
        return cast("Tensor", pupil.local_head(windows(maps.logits, self.window, self.window // 2)))


def _showing(tiles: TileBatch, inputs: Inputs) -> TileBatch:
    """Return the batch with other images or features."""
    return replace(tiles, images=inputs) if isinstance(inputs, Tensor) else replace(tiles, features=inputs)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Return images or features of all parts as one batch."""
    if len(parts) == 1:
        return parts[0]
    images = [part for part in parts if isinstance(part, Tensor)]
    if images:
        return torch.cat(images)
    return tuple(torch.cat(level) for level in zip(*cast("Sequence[tuple[Tensor, ...]]", parts), strict=True))


def _places(parts: Sequence[TileBatch]) -> Tensor | None:
    """Return the positions of the joined tiles in the whole batch; None if rank order is that order."""
    if len(parts) == 1:
        return None
    first = 0
    places = []
    for part in parts:
        places.append(first + part.part_of(torch.arange(part.whole)))
        first += part.whole
    return torch.cat(places)
