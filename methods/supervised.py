"""The two controls that every table needs: masks of the budget alone, and masks of every training patient."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tissuebench.methods.api import (
    ANNOTATED,
    Method,
    Settings,
    Stream,
    Supervision,
    TrainingBatch,
    masked_cross_entropy,
    register,
)


@register
class Supervised(Method[Settings]):
    """Cross-entropy on the masks that the budget bought: the lower bound."""

    name = "supervised"
    summary = "cross-entropy on the masks of the budget (lower bound)"
    consumes = frozenset({Supervision.MASKS})

    def streams(self) -> Mapping[str, Stream]:
        """Annotated tiles, classes balanced."""
        return {ANNOTATED: self.annotated_stream()}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Cross-entropy on labelled pixels."""
        annotated = batch[ANNOTATED]
        return masked_cross_entropy(self.network(annotated.inputs), annotated.masks)


@register
class FullSupervision(Supervised):
    """The same network and steps with the masks of all training patients: the upper bound."""

    name = "full"
    summary = "cross-entropy on all training masks (upper bound)"
    fixed_budget = "masks:all"
