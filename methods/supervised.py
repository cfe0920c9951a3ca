"""Controls that every table needs: supervised training on the budget's masks, and on all training masks."""

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
    half_precision = True  # normalised networks, log-softmax in float32

    def streams(self) -> Mapping[str, Stream]:
        """Return one stream: annotated tiles, balanced by class."""
        return {ANNOTATED: self.annotated_stream()}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """Return the cross-entropy on labelled pixels."""
        annotated = batch[ANNOTATED]
        return masked_cross_entropy(self.network(annotated.inputs), annotated.masks)


@register
class FullSupervision(Supervised):
    """Cross-entropy on the masks of all training patients, with the same network and steps: the upper bound."""

    name = "full"
    summary = "cross-entropy on all training masks (upper bound)"
    fixed_budget = "masks:all"
