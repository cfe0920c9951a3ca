"""Method: the contract between a weak-supervision strategy and the benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, Stream, Supervision, TrainingBatch
from tissuebench.methods.networks import Segmenter, build_segmenter
from tissuebench.methods.settings import NetworkSettings, Settings, TrainingSettings

SettingsT = TypeVar("SettingsT", bound=Settings)

ANNOTATED = "annotated"
"""The stream of tiles with masks. All methods that have one call it so, hence all see the same tiles."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a method is told of the task: classes, shared network, step budget, nothing of paths or services."""

    class_map: ClassMap
    network: NetworkSettings
    training: TrainingSettings


class Method(LightningModule, ABC):
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
        Config: settings of its own, all with defaults.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    consumes: ClassVar[frozenset[Supervision]]
    controls: ClassVar[tuple[str, ...]] = ("supervised", "full")
    fixed_budget: ClassVar[str | None] = None
    Config: ClassVar[type[Settings]] = Settings

    def __init__(self, task: Task, config: Settings) -> None:
        super().__init__()
        self.task, self.config = task, config
        self.network: Segmenter = build_segmenter(task.network, len(task.class_map))

    @classmethod
    def spending(cls, config: Settings) -> Mapping[Supervision, float]:
        """How the method spends a budget in minutes: shares of ``masks`` and ``tags`` that add up to 1.

        By default all on masks if it consumes them, else all on tags, else nothing. A method that learns from both
        overrides this, with the split as one of its settings::

            return {Supervision.MASKS: config.mask_share, Supervision.TAGS: 1 - config.mask_share}

        Diagnoses are no part of it: where a method consumes them, those of all training patients are paid first.
        """
        for kind in (Supervision.MASKS, Supervision.TAGS):
            if kind in cls.consumes:
                return {kind: 1.0}
        return {}

    @abstractmethod
    def streams(self) -> Mapping[str, Stream]:
        """The tiles wanted in each step; a stream's supervision must be in ``consumes``."""

    @abstractmethod
    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """The scalar loss of one step."""

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities (B, K, H, W) float32 of images (B, 3, H, W) uint8: all the evaluator ever calls."""
        logits: Tensor = self.network(images)
        return logits.float().softmax(dim=1)

    @property
    def progress(self) -> float:
        """Share of the step budget that is done, 0 to 1."""
        done = self.trainer.global_step if self._trainer is not None else 0
        return done / self.task.training.steps

    def annotated_stream(self) -> Stream:
        """The stream of tiles with masks that all methods share."""
        return Stream(Supervision.MASKS, self.task.training.batch_size)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients. bf16 scales no loss, so fused optimisers can be clipped, too."""
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type is a union of a dozen
        """AdamW under one learning-rate cycle over the step budget: the same for every arm."""
        training = self.task.training
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=training.learning_rate, total_steps=training.steps + 1, pct_start=0.05
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def own_settings(method: Method, kind: type[SettingsT]) -> SettingsT:
    """The method's settings as its own ``Config`` type.

    Raises:
        TypeError: the method was built with settings of another kind.
    """
    if not isinstance(method.config, kind):
        raise TypeError(f"method {method.name!r} needs {kind.__qualname__}, got {type(method.config).__qualname__}")
    return method.config


def masked_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy pooled over labelled pixels, ``-1/|V| sum over V of log p_y``; a graph-connected 0 without any.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) int64, ``IGNORE_LABEL`` where unlabelled.
    """
    summed = functional.cross_entropy(logits.float(), masks, ignore_index=IGNORE_LABEL, reduction="sum")
    return summed / (masks != IGNORE_LABEL).sum().clamp(min=1)
