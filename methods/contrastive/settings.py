"""Settings of the two distillation phases of ACTION (You et al., IPMI 2023).

Options name what the official code does differently (github.com/charlesyou999648/ACTION, ``model.py`` and
``train_2D_pretrain.py``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import Field

from tissuebench.common.settings import Later
from tissuebench.methods.contrastive.distillation import STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, WindowAnchors
from tissuebench.methods.teacher_student.stage import TeacherStudentSettings
from tissuebench.methods.teacher_student.supervised_loss import SupervisedLoss


class Views(StrEnum):
    """Views of a tile in distillation.

    ``student_strong``: changed colours and blur for the student, the tile itself for the teacher (paper). ``official``:
    the same changed colours for both, and blur for the teacher alone (published code, whose jitter for the teacher
    changes the student's tensor in place). That code draws once per batch whether there is jitter and blur, and one
    sigma; here each tile has its own draw.
    """

    STUDENT_STRONG = "student_strong"
    OFFICIAL = "official"


class TeacherHeads(StrEnum):
    """Projection heads of the teacher.

    ``averaged``: moving averages of the student's, without gradient. ``trained``: heads of their own, from their own
    random weights, which the optimiser trains with the gradient of the distillation losses (published code). Paper: not
    stated.
    """

    AVERAGED = "averaged"
    TRAINED = "trained"


class LocalStart(StrEnum):
    """Parts of the first phase that the second one starts from.

    ``everything``: networks, heads, predictor and queue. ``networks``: the networks of student and teacher; the rest is
    new (published code). Paper: not stated.
    """

    EVERYTHING = "everything"
    NETWORKS = "networks"


class GlobalSettings(TeacherStudentSettings):
    """Settings that the first phase depends on.

    Attributes:
        queue: number of earlier tiles that a tile is compared with.
        student_temperature, teacher_temperature: temperatures of the similarities.
        distils_annotated: first phase: half of each batch are tiles with masks, which are not read; second phase: the
            tiles with masks are distilled, too, and their loss is that of the student's view. Published code: true;
            paper: the first phase is label-free. The first phase then depends on the budget.
        views: views of student and teacher.
        teacher_heads: whether the teacher's heads are averaged or trained.
    """

    queue: int = Field(36, ge=2)
    student_temperature: float = Field(STUDENT_TEMPERATURE, gt=0)
    teacher_temperature: float = Field(TEACHER_TEMPERATURE, gt=0)
    distils_annotated: Annotated[bool, Later(False)] = False
    views: Annotated[Views, Later(Views.STUDENT_STRONG)] = Views.STUDENT_STRONG
    teacher_heads: Annotated[TeacherHeads, Later(TeacherHeads.AVERAGED)] = TeacherHeads.AVERAGED


class LocalSettings(GlobalSettings):
    """Settings that the second phase depends on.

    Attributes:
        supervised_loss: loss on tiles with masks.
        window_share: edge length of a window relative to that of a tile; windows overlap by half.
        anchors: keys that a window is compared with.
        global_weight, local_weight: weights of the two distillation losses relative to the loss on masks.
        local_start: parts of the first phase to start from.
    """

    supervised_loss: SupervisedLoss = SupervisedLoss.CROSS_ENTROPY
    window_share: float = Field(0.25, gt=0, le=0.5)
    anchors: WindowAnchors = WindowAnchors.SAME_WINDOW
    global_weight: float = Field(1.0, ge=0)
    local_weight: float = Field(1.0, ge=0)
    local_start: Annotated[LocalStart, Later(LocalStart.EVERYTHING)] = LocalStart.EVERYTHING


GlobalT = TypeVar("GlobalT", bound=GlobalSettings)
