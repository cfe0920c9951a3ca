"""Public API for method authors: ``from tissuebench.methods.api import Method, register, ...``.

``tissuebench.methods.api.contract`` has the tests that every method must pass; it needs pytest and is not imported
here.
"""

from tissuebench.common.own_settings import Own, in_place_of, inherited
from tissuebench.common.settings import Settings
from tissuebench.datasets.types import (
    IGNORE_LABEL,
    ClassMap,
    DiagnosisBatch,
    MaskBatch,
    PseudoMaskBatch,
    Stream,
    StreamName,
    Supervision,
    TagBatch,
    TileBatch,
    TrainingBatch,
)
from tissuebench.methods.api.method import ANNOTATED, Method, RecipeSettings, masked_cross_entropy
from tissuebench.methods.api.registry import all_methods, find_method, register
from tissuebench.methods.api.stage import Snapshot, Stage, Task, Trainable
from tissuebench.methods.api.together import forward_together
from tissuebench.methods.api.training_settings import RateSchedule, TrainingSettings
from tissuebench.methods.losses.pooling import pooled
from tissuebench.methods.networks import Encoded, Segmenter, build_segmenter

__all__ = [
    "ANNOTATED",
    "IGNORE_LABEL",
    "ClassMap",
    "DiagnosisBatch",
    "Encoded",
    "MaskBatch",
    "Method",
    "Own",
    "PseudoMaskBatch",
    "RateSchedule",
    "RecipeSettings",
    "Segmenter",
    "Settings",
    "Snapshot",
    "Stage",
    "Stream",
    "StreamName",
    "Supervision",
    "TagBatch",
    "Task",
    "TileBatch",
    "Trainable",
    "TrainingBatch",
    "TrainingSettings",
    "all_methods",
    "build_segmenter",
    "find_method",
    "forward_together",
    "in_place_of",
    "inherited",
    "masked_cross_entropy",
    "pooled",
    "register",
]
