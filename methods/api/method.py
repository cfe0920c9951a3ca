"""Method: the contract between a weak-supervision strategy and the benchmark."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from tissuebench.datasets.types import IGNORE_LABEL, MaskBatch, Stream, StreamName, Supervision
from tissuebench.methods.api.stage import SettingsT, Stage, Task, Trainable
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.losses.pooling import pooled
from tissuebench.methods.networks import Segmenter, build_segmenter

ANNOTATED = StreamName("annotated", MaskBatch)
"""The stream of tiles with masks. All methods that have one call it so, hence all see the same tiles."""


class Method(Trainable[SettingsT], ABC):
    """A strategy: which labels it consumes, which tiles it wants, and its loss.

    A method is one file with a subclass under ``@register``, or an entry point ``tissuebench.methods`` of another
    package. It never reads a file, never logs to a service and never sees test data; the benchmark owns data, step
    budget, seeds and evaluation.

    Class attributes:
        name: what users type.
        summary: one line for ``tissuebench method list``.
        consumes: kinds of supervision; labels of any other kind are refused at the door.
        controls: methods that must stand beside it in a table.
        fixed_budget: a budget that replaces the plan's (the upper bound always has all masks).
        Config: its settings, all with defaults: the type in brackets, or a class of that name in the body.

    Example:
        >>> class MineSettings(Settings):
        ...     weight: float = 0.5
        >>> class Mine(Method[MineSettings]):
        ...     name, summary, consumes = "mine", "half the cross-entropy", frozenset({Supervision.MASKS})
        ...
        ...     def streams(self):
        ...         return {ANNOTATED: self.annotated_stream()}
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         tiles = batch[ANNOTATED]
        ...         return self.config.weight * masked_cross_entropy(self.network(tiles.inputs), tiles.masks)
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    consumes: ClassVar[frozenset[Supervision]]
    controls: ClassVar[tuple[str, ...]] = ("supervised", "full")
    fixed_budget: ClassVar[str | None] = None

    def __init__(self, task: Task, config: SettingsT) -> None:
        super().__init__(task, config)
        self.network: Segmenter = self.make_network()

    def make_network(self) -> Segmenter:
        """The network that predicts: the first thing that is drawn, so that arms of one seed begin alike."""
        return build_segmenter(self.task.network, len(self.task.class_map), self.task.tile_px)

    @classmethod
    def planned_settings(cls, plan: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What a plan says of it, of all that it says by method; a control may follow the arm that it belongs to."""
        return dict(plan.get(cls.name, {}))

    @classmethod
    def spending(cls, config: SettingsT) -> Mapping[Supervision, float]:
        """How the method spends a budget in minutes: shares of ``masks`` and ``tags`` that add up to 1.

        By default all on masks if it consumes them, else all on tags, else nothing. A method that learns from both
        overrides this, with the split as one of its settings::

            return {Supervision.MASKS: config.mask_share, Supervision.TAGS: 1 - config.mask_share}

        Diagnoses are no part of it: where a method consumes them, those of all training patients are paid first.

        It also says which budgets in patients the method can use: those of the kinds that get a share.
        """
        for kind in (Supervision.MASKS, Supervision.TAGS):
            if kind in cls.consumes:
                return {kind: 1.0}
        return {}

    @classmethod
    def stages(cls, config: SettingsT, training: TrainingSettings) -> tuple[Stage, ...]:
        """The stages before the last one, which all trials train with the same step budget. None by default.

        ``inherit`` is given what each of them learnt; streams may ask for their pseudo-masks.
        """
        return ()

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities (B, K, H, W) float32 of images (B, 3, H, W) uint8: all the evaluator ever calls."""
        logits: Tensor = self.network(images)
        return logits.float().softmax(dim=1)

    def annotated_stream(self) -> Stream:
        """The stream of tiles with masks that all methods share."""
        return Stream(Supervision.MASKS, self.task.training.batch_size)


def masked_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy pooled over the whole batch's labelled pixels; a graph-connected 0 without any.

    ``-1/|V| sum over V of log p_y``; V includes the pixels that other processes hold.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) int64, ``IGNORE_LABEL`` where unlabelled.
    """
    summed = functional.cross_entropy(logits.float(), masks, ignore_index=IGNORE_LABEL, reduction="sum")
    return pooled(summed, (masks != IGNORE_LABEL).sum())
