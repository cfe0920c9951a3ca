"""Stages with a teacher that is the moving average of the trained student."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self, TypeVar

from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tissuebench.methods.networks.settings import Architecture
from tissuebench.methods.teacher_student.averaging import Averaging
from tissuebench.methods.teacher_student.strong_view import StrongView
from tissuebench.methods.teacher_student.teacher import TeacherBuffers, build_teacher


class TeacherStudentSettings(StrongView):
    """Settings of network and teacher.

    Attributes:
        network: the shared one, or the U-Net of ACTION.
        decay: decay of the teacher's average. .99 lags behind within a few hundred steps, where .95 does better.
        decay_warm_up: ``m = min(1 - 1 / (t + 1), decay)``. Published: false.
        teacher_buffers: treatment of the teacher's batch statistics.
    """

    network: Architecture = Architecture.MATCHED
    decay: float = Field(0.99, ge=0, le=1)
    decay_warm_up: bool = True
    teacher_buffers: TeacherBuffers = TeacherBuffers.COPY


TeacherStudentT = TypeVar("TeacherStudentT", bound=TeacherStudentSettings)


class TeacherStudentStage(Averaging[TeacherStudentT]):
    """Stage that averages its student within each optimiser step, so that checkpoints hold both.

    Attributes:
        teacher: the average; without gradient, in evaluation mode unless it has its own buffers.
    """

    teacher: AveragedModel
    _keeps_mode = False

    @classmethod
    def brings_network(cls, config: TeacherStudentT) -> bool:
        """Whether the settings select the published U-Net."""
        return config.network is Architecture.PAPER

    @property
    @abstractmethod
    def student(self) -> nn.Module:
        """The module that is averaged."""

    @property
    def decay(self) -> float:
        """Decay of the teacher's average."""
        return self.config.decay

    def teach(self) -> None:
        """Create a new teacher equal to the student."""
        config = self.config
        self.teacher = build_teacher(self.student, self.decay, config.teacher_buffers, config.decay_warm_up)
        self._keeps_mode = config.teacher_buffers is TeacherBuffers.OWN
        if not self._keeps_mode:
            self.teacher.eval()  # a copy has the student's mode, and Lightning does not change modes

    @property
    def averaged(self) -> tuple[AveragedModel, nn.Module]:
        """The teacher, and the student that it follows."""
        return self.teacher, self.student

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the teacher stays in evaluation mode unless it has its own buffers."""
        super().train(mode)
        if mode and not self._keeps_mode:
            self.teacher.eval()
        return self
