"""First phase of a mean teacher: the student learns from masks alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tissuebench.common.settings import Settings
from tissuebench.methods.api import ANNOTATED, Stream, Supervision, Task, Trainable, TrainingBatch
from tissuebench.methods.networks.settings import Architecture
from tissuebench.methods.teacher_student.networks import build_network
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss


class MaskPhaseSettings(Settings):
    """Settings that the phase depends on.

    Attributes:
        network: the shared one, or the U-Net of ACTION.
        supervised_loss: loss on tiles with masks.
    """

    network: Architecture = Architecture.MATCHED
    supervised_loss: SupervisedLoss = SupervisedLoss.CROSS_ENTROPY


class MaskPhase(Trainable[MaskPhaseSettings]):
    """Supervised steps before a teacher is introduced, with a learning-rate cycle of their own."""

    kind = "tissuebench.methods.teacher_student.mask_phase:MaskPhase"
    half_precision = True  # normalised networks, losses in float32

    def __init__(self, task: Task, config: MaskPhaseSettings) -> None:
        super().__init__(task, config)
        self.network = build_network(task, config.network)

    @classmethod
    def brings_network(cls, config: MaskPhaseSettings) -> bool:
        """Whether the settings select the published U-Net."""
        return config.network is Architecture.PAPER

    def streams(self) -> Mapping[str, Stream]:
        """Return one stream: annotated tiles, balanced by class."""
        return {ANNOTATED: Stream(Supervision.MASKS, self.task.training.batch_size)}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the loss of the tiles with masks."""
        annotated = batch[ANNOTATED]
        return self.config.supervised_loss.of(self.network(annotated.inputs), annotated.masks)
