"""Contrastive distillation with soft negatives: a student learns how similar its teacher finds an image to others.

ACTION (You et al., IPMI 2023, arXiv:2206.02307), first and second phase, after ISD (Tejankar et al., ICCV 2021). The
others, called anchors, are what a ``KeyQueue`` holds. Nothing pulls the student to the teacher's own vector: that is
pushed after the loss.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, distributed
from torch.nn import functional

from tissuebench.methods.contrastive.key_queue import gathered
from tissuebench.methods.losses.pooling import pooled

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.01
"""As published: the teacher's distribution is sharp, so even equal vectors give a positive loss."""


class WindowAnchors(StrEnum):
    """What a window is compared with.

    ``same_window``: the keys of the window at the same place; what the official code seems to mean. ``published``: what
    it computes, as it reshapes where it should permute; we see no principle in it. ``all_windows``: all keys of all
    windows, an option of this project, as places in tiles of tissue mean nothing.
    """

    SAME_WINDOW = "same_window"
    ALL_WINDOWS = "all_windows"
    PUBLISHED = "published"


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float = STUDENT_TEMPERATURE,
    teacher_temperature: float = TEACHER_TEMPERATURE,
) -> Tensor:
    """``mean over n of KL(p_t || p_s)``, ``p = softmax over anchors a_j of cos(z_n, a_j) / tau``.

    The mean is that over the whole batch, which several processes may share; only the student gets a gradient (in the
    official code the teacher's head does, too).

    Args:
        student: z_s, (N, D) float; evaluated in float32 at least, below autocast as well.
        teacher: z_t, (N, D).
        queue: anchors, (K, D), of any length as only their directions count.
        student_temperature: tau_s.
        teacher_temperature: tau_t.

    Returns:
        () of the student's type, float32 for narrower ones; 0 where N = 0, still connected to the graph.

    Raises:
        ValueError: shapes do not fit, or a temperature is not positive.
    """
    if student.ndim != 2 or teacher.shape != student.shape or queue.shape[1:] != student.shape[1:]:
        raise ValueError(f"not (N, D), (N, D), (K, D): {_shapes(student, teacher, queue)}")
    return _mean_divergence(student, teacher, queue, student_temperature, teacher_temperature)


def window_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float = STUDENT_TEMPERATURE,
    teacher_temperature: float = TEACHER_TEMPERATURE,
    anchors: WindowAnchors = WindowAnchors.SAME_WINDOW,
) -> Tensor:
    """``distillation_loss`` of W windows of each image, as the mean over all N W of them.

    In the ``published`` form, N D rows of W numbers are compared with K D rows, and the mean is over N D: batch and
    queue are laid out as (W, N, D) and (W, K, D), and cut into chunks of W numbers, which mix dimensions and at times
    images and windows. The official code also pushes keys in that layout read as (N, W, D), which is
    ``keys.transpose(0, 1).reshape(keys.shape)``.

    Args:
        student: (N, W, D) float; evaluated in float32 at least, below autocast as well.
        teacher: (N, W, D).
        queue: (K, W, D).
        student_temperature: tau_s.
        teacher_temperature: tau_t.
        anchors: what a window is compared with.

    Returns:
        As ``distillation_loss``.

    Raises:
        ValueError: shapes do not fit, or a temperature is not positive.
    """
    if student.ndim != 3 or teacher.shape != student.shape or queue.shape[1:] != student.shape[1:]:
        raise ValueError(f"not (N, W, D), (N, W, D), (K, W, D): {_shapes(student, teacher, queue)}")
    match anchors:
        case WindowAnchors.SAME_WINDOW:
            rows = tuple(each.transpose(0, 1) for each in (student, teacher, queue))
        case WindowAnchors.ALL_WINDOWS:
            rows = tuple(each.flatten(0, 1) for each in (student, teacher, queue))
        case WindowAnchors.PUBLISHED:
            # Chunks mix the images of a batch, so each process has to see all of it. All then have the same rows and
            # loss, with the gradient of their own images, of which the mean is taken later.
            everyone = _with_others(student), torch.cat(gathered(teacher)), queue
            rows = tuple(published_rows(each) for each in everyone)
    return _mean_divergence(rows[0], rows[1], rows[2], student_temperature, teacher_temperature)


def published_rows(vectors: Tensor) -> Tensor:
    """The official code's reading of (N, W, D): chunks (N D, W) of the numbers in the order of (W, N, D)."""
    return vectors.transpose(0, 1).reshape(-1, vectors.shape[1])


def similarities(vectors: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """``cos(z, a) / tau`` of rows (..., N, D) and anchors (..., K, D), each row of ... with its own: (..., N, K).

    Of the vectors' type, float32 for narrower ones, below autocast as well: that would multiply in bfloat16, whose
    steps near a cosine of 1 are .004, which is .4 at the teacher's temperature.
    """
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        rows, columns = (functional.normalize(each.to(dtype), dim=-1) for each in (vectors, anchors))
        return rows @ columns.mT / temperature


def _mean_divergence(student: Tensor, teacher: Tensor, queue: Tensor, student_t: float, teacher_t: float) -> Tensor:
    """The loss of rows (..., N, D) against anchors (..., K, D), each row of ... against its own."""
    if student_t <= 0 or teacher_t <= 0:
        raise ValueError(f"temperatures must be positive, not {student_t} and {teacher_t}")
    queue = queue.detach()
    log_student = similarities(student, queue, student_t).log_softmax(dim=-1)
    log_teacher = similarities(teacher.detach().to(log_student.dtype), queue, teacher_t).log_softmax(dim=-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
    return pooled(divergence.sum(), torch.tensor(divergence.numel(), device=student.device))


def _with_others(own: Tensor) -> Tensor:
    """The rows of all W processes in the order of ranks; this one's with their graph, at W times their gradient."""
    parts = gathered(own)
    if len(parts) == 1:
        return own
    parts[distributed.get_rank()] = own.detach() + len(parts) * (own - own.detach())
    return torch.cat(parts)


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(tuple(each.shape)) for each in tensors)
