"""Teacher as a moving average of the student (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class TeacherBuffers(StrEnum):
    """Treatment of buffers, such as the statistics of batch norm, in an update of the teacher.

    ``copy``: copied from the student. ``average``: averaged like weights; integers are copied. ``own``: left alone; the
    teacher then stays in training mode, with the statistics of its own batches and with dropout, as in the published
    code of ACTION (``train_2D_action.py``, ``ema_model.train()``).
    """

    COPY = "copy"
    AVERAGE = "average"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class _MovingAverage:
    """Moving-average update ``theta_teacher <- m_t theta_teacher + (1 - m_t) theta_student``."""

    decay: float
    warm_up: bool

    def __call__(
        self, averaged: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], t: Tensor | int
    ) -> None:
        decay = min(1 - 1 / (int(t) + 1), self.decay) if self.warm_up else self.decay
        with torch.no_grad():
            if averaged[0].is_floating_point() or averaged[0].is_complex():
                torch._foreach_lerp_(averaged, current, 1 - decay)
            else:
                torch._foreach_copy_(averaged, current)


class _Teacher(AveragedModel):
    """Averaged model that leaves trained weights alone, and its buffers if they are its own."""

    own_buffers = False

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average all other weights; ``AveragedModel`` would average or copy everything."""
        kept: list[Tensor] = [weight for weight in self.module.parameters() if weight.requires_grad]
        if self.own_buffers:
            kept += self.module.buffers()
        before = [tensor.clone() for tensor in kept]
        super().update_parameters(model)
        for tensor, own in zip(kept, before, strict=True):
            tensor.copy_(own)


def build_teacher(
    student: nn.Module, decay: float, buffers: TeacherBuffers = TeacherBuffers.COPY, warm_up: bool = True
) -> AveragedModel:
    """Return a copy of the student that follows it: call ``update_parameters(student)`` after each of its steps.

    After t updates, ``m_t = min(1 - 1 / (t + 1), decay)``, as in ReCo (Liu et al., ICLR 2022), so that the first one
    copies the student; without ``warm_up``, ``m_t = decay``, as in ACTION (You et al., IPMI 2023). The student may have
    frozen weights and any memory format. All of the teacher's state is in its ``state_dict``; ``n_averaged`` is t,
    without ``warm_up`` t + 1.

    Args:
        student: module to copy, including its mode; nothing is shared.
        decay: 0 copies the student, 1 never changes the teacher; 0.99 in both papers.
        buffers: whether buffers are copied from the student, averaged, or left alone.
        warm_up: whether early states of the student are forgotten faster.

    Returns:
        The teacher, with no weight requiring a gradient; one that is later made to require it is trained in place of
        averaged. The caller controls its mode (``train``, ``eval``), independently of the student's.

    Raises:
        ValueError: ``decay`` is outside 0..1.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in 0..1, not {decay}")
    average = _MovingAverage(decay, warm_up)
    teacher = _Teacher(student, multi_avg_fn=average, use_buffers=buffers is TeacherBuffers.AVERAGE)
    teacher.own_buffers = buffers is TeacherBuffers.OWN
    teacher.requires_grad_(False)
    if not warm_up:
        teacher.n_averaged.fill_(1)  # at 0 the first update would copy the student, whatever the decay
    return teacher
