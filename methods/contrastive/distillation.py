"""Contrastive distillation with soft negatives: a student learns its teacher's similarities between images.

First and second phase of ACTION (You et al., IPMI 2023, arXiv:2206.02307), after ISD (Tejankar et al., ICCV 2021). Each
image is compared with anchors, the keys of a ``KeyQueue``. Nothing pulls the student towards the teacher's own vector:
that is pushed to the queue after the loss.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional

from tissuebench.methods.api.whole_batch import gathered_with_own_gradient, in_batch_order
from tissuebench.methods.losses.pooling import pooled

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.01
"""Published temperatures: the teacher's distribution is sharp, so even equal vectors give a positive loss."""


class WindowAnchors(StrEnum):
    """Anchors that a window is compared with.

    ``same_window``: the keys of the window at the same position, the apparent intent of the official code.
    ``published``: rows that this code actually compares, with a reshape in place of a permute; we see no rationale for
    it. ``official``: the same, and the keys are also stored in that code's order, see ``official_order``.
    ``all_windows``: the keys of all windows, an option of this project, as positions within a tissue tile carry no
    meaning.
    """

    SAME_WINDOW = "same_window"
    ALL_WINDOWS = "all_windows"
    PUBLISHED = "published"
    OFFICIAL = "official"


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float = STUDENT_TEMPERATURE,
    teacher_temperature: float = TEACHER_TEMPERATURE,
    teacher_learns: bool = False,
) -> Tensor:
    """KL divergence between the teacher's and the student's similarities to the anchors, averaged over the batch.

    ``mean over n of KL(p_t || p_s)``, ``p = softmax over anchors a_j of cos(z_n, a_j) / tau``. The mean is over the
    whole batch, possibly spread over several processes.

    Args:
        student: z_s, (N, D) float; evaluated in float32 or wider, even under autocast.
        teacher: z_t, (N, D).
        queue: anchors, (K, D), of any length, since only their directions matter.
        student_temperature: tau_s.
        teacher_temperature: tau_t.
        teacher_learns: whether z_t gets a gradient, too. Published code: true, as the teacher's head is trained.

    Returns:
        () of the student's dtype, at least float32; a graph-connected 0 if N = 0.

    Raises:
        ValueError: shapes do not match, or a temperature is not positive.

    Examples:
        >>> student, teacher, queue = torch.randn(4, 16), torch.randn(4, 16), torch.randn(36, 16)
        >>> distillation_loss(student, teacher, queue).shape
        torch.Size([])
    """
    if student.ndim != 2 or teacher.shape != student.shape or queue.shape[1:] != student.shape[1:]:
        raise ValueError(f"not (N, D), (N, D), (K, D): {_shapes(student, teacher, queue)}")
    teacher = teacher if teacher_learns else teacher.detach()
    return _mean_divergence(student, teacher, queue, student_temperature, teacher_temperature)


def window_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float = STUDENT_TEMPERATURE,
    teacher_temperature: float = TEACHER_TEMPERATURE,
    anchors: WindowAnchors = WindowAnchors.SAME_WINDOW,
    teacher_learns: bool = False,
    places: Tensor | None = None,
) -> Tensor:
    """Contrastive distillation of W windows per image: ``distillation_loss`` averaged over all N W windows.

    In the ``published`` and ``official`` form, N D rows of W numbers are compared with K D rows, and the mean is over
    N D: batch and queue are laid out as (W, N, D) and (W, K, D), and cut into chunks of W numbers, which mix dimensions
    and sometimes images and windows.

    Args:
        student: (N, W, D) float; evaluated in float32 or wider, even under autocast.
        teacher: (N, W, D).
        queue: (K, W, D).
        student_temperature: tau_s.
        teacher_temperature: tau_t.
        anchors: which keys a window is compared with.
        teacher_learns: as in ``distillation_loss``.
        places: (N,) positions of the images in the whole batch, as for ``KeyQueue.push``.

    Returns:
        () as in ``distillation_loss``.

    Raises:
        ValueError: shapes do not match, or a temperature is not positive.

    Examples:
        >>> student, teacher, queue = torch.randn(4, 9, 16), torch.randn(4, 9, 16), torch.randn(36, 9, 16)
        >>> window_distillation_loss(student, teacher, queue).shape
        torch.Size([])
    """
    if student.ndim != 3 or teacher.shape != student.shape or queue.shape[1:] != student.shape[1:]:
        raise ValueError(f"not (N, W, D), (N, W, D), (K, W, D): {_shapes(student, teacher, queue)}")
    teacher = teacher if teacher_learns else teacher.detach()
    match anchors:
        case WindowAnchors.SAME_WINDOW:
            rows = tuple(each.transpose(0, 1) for each in (student, teacher, queue))
        case WindowAnchors.ALL_WINDOWS:
            rows = tuple(each.flatten(0, 1) for each in (student, teacher, queue))
        case WindowAnchors.PUBLISHED | WindowAnchors.OFFICIAL:
            # Chunks mix the images of a batch, so each process must see the whole batch. All processes then have the
            # same rows and loss, each with the gradient of its own images; these are averaged later.
            everyone = (in_batch_order(gathered_with_own_gradient(each), places) for each in (student, teacher))
            rows = tuple(published_rows(each) for each in (*everyone, queue))
    return _mean_divergence(rows[0], rows[1], rows[2], student_temperature, teacher_temperature)


def published_rows(vectors: Tensor) -> Tensor:
    """Return (N, W, D) vectors as the official code reads them: rows (N D, W) of the numbers in (W, N, D) order."""
    return vectors.transpose(0, 1).reshape(-1, vectors.shape[1])


def official_order(keys: Tensor) -> Tensor:
    """Return keys (N, W, D) of the whole batch as the official code stores them: in (W, N) order, read as (N, W)."""
    return keys.transpose(0, 1).reshape(keys.shape)


def similarities(vectors: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Return ``cos(z, a) / tau``, (..., N, K), of rows (..., N, D) and anchors (..., K, D), batched over leading axes.

    The result has the vectors' dtype, at least float32. Autocast is disabled: it would multiply in bfloat16, whose
    spacing near a cosine of 1 is .004, which is .4 at the teacher's temperature.
    """
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        rows, columns = (functional.normalize(each.to(dtype), dim=-1) for each in (vectors, anchors))
        return rows @ columns.mT / temperature


def _mean_divergence(student: Tensor, teacher: Tensor, queue: Tensor, student_t: float, teacher_t: float) -> Tensor:
    """Return the loss of rows (..., N, D) against anchors (..., K, D), batched over the leading axes."""
    if student_t <= 0 or teacher_t <= 0:
        raise ValueError(f"temperatures must be positive, not {student_t} and {teacher_t}")
    queue = queue.detach()
    log_student = similarities(student, queue, student_t).log_softmax(dim=-1)
    log_teacher = similarities(teacher.to(log_student.dtype), queue, teacher_t).log_softmax(dim=-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
    return pooled(divergence.sum(), divergence.numel())


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(tuple(each.shape)) for each in tensors)
