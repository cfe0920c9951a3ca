"""Teacher as a moving average of the student (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

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


class MovingAverage(AveragedModel):
    """Average ``theta <- m_t theta + (1 - m_t) theta_model``; the first update, at t = 0, copies the model.

    ``AveragedModel`` would average or copy everything, trained weights as well, and reads ``n_averaged`` at every
    update, which waits for a GPU. Here t is a number, read once and after a state is loaded.

    Args:
        model: module to copy; the average is one of the copy's weights that need no gradient, and of its buffers.
        decay: m_t after the first update.
        warm_up: ``m_t = min(1 - 1 / (t + 1), decay)``.
        buffers: whether buffers are copied from the model, averaged, or left alone.
        t: updates before the first one; with 1, that averages as well.
    """

    def __init__(self, model: nn.Module, decay: float, warm_up: bool, buffers: TeacherBuffers, t: int = 0) -> None:
        super().__init__(model, use_buffers=buffers is TeacherBuffers.AVERAGE)
        self._decay, self._warm_up, self._buffers_are = decay, warm_up, buffers
        self._t: int | None = t
        self.n_averaged.fill_(t)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update from the model, which must have the same structure."""
        t = self._t = int(self.n_averaged) if self._t is None else self._t
        decay = min(1 - 1 / (t + 1), self._decay) if self._warm_up else (self._decay if t else 0.0)
        weights = zip(self.module.parameters(), model.parameters(), strict=True)
        averaged: list[tuple[Tensor, Tensor]] = [(own, other) for own, other in weights if not own.requires_grad]
        buffers = list(zip(self.module.buffers(), model.buffers(), strict=True))
        copied = buffers if self._buffers_are is TeacherBuffers.COPY else []
        if self._buffers_are is TeacherBuffers.AVERAGE:  # counters of batch norm are integers
            averaged += [pair for pair in buffers if pair[0].is_floating_point()]
            copied = [pair for pair in buffers if not pair[0].is_floating_point()]
        if averaged:
            torch._foreach_lerp_(*_columns(averaged), 1 - decay)
        if copied:
            torch._foreach_copy_(*_columns(copied))
        self._t = t + 1
        self.n_averaged.add_(1)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - torch's
        super()._load_from_state_dict(*args, **options)
        self._t = None


def _columns(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [own for own, _ in pairs], [other for _, other in pairs]


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
    teacher = MovingAverage(student, decay, warm_up, buffers, t=0 if warm_up else 1)
    teacher.requires_grad_(False)
    return teacher
