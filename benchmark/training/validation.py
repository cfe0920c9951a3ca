"""Scores on held-out patients while a trial trains, by Lightning's validation loop: one slide is one batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tissuebench.evaluation.evaluate import SlideScorer
from tissuebench.methods.api.method import Method

SELECTION, WATCHED = "selection", "val"
"""Patients that were bought and held out from training; the validation part, for people only."""


class SlideToScore:
    """One slide as a batch of the validation loop; ``index`` is None for a process that has no slide but takes part."""

    def __init__(self, scorer: SlideScorer, index: int | None) -> None:
        self._scorer, self._index = scorer, index

    def score(self, method: Method[Any]) -> None:
        """Predict the slide and count."""
        if self._index is not None:
            self._scorer.score(method, self._index)


class SlideLoader:
    """Loader of this process's share of the slides of one set of patients."""

    def __init__(self, scorer: SlideScorer) -> None:
        self._scorer = scorer

    def __iter__(self) -> Iterator[SlideToScore]:
        mine: Sequence[int | None] = self._scorer.mine or [None]
        return (SlideToScore(self._scorer, index) for index in mine)

    def __len__(self) -> int:
        return max(1, len(self._scorer.mine))


class Validation(Callback):
    """Scores sets of patients every few steps, and sends mIoU, log-loss and calibration error to the loggers.

    Args:
        scorers: by name, ``SELECTION`` or ``WATCHED``.
        every: steps between two validations; the last step is always validated.

    Attributes:
        scores: of the last validation, by names such as ``selection/miou``.
        watching_seconds: seconds spent on ``WATCHED``, over all resumptions; no cost of the method.
    """

    def __init__(self, scorers: Mapping[str, SlideScorer], every: int) -> None:
        self._scorers, self.every = dict(scorers), every
        self.scores: dict[str, float] = {}
        self.watching_seconds = self._begun = 0.0

    @property
    def loaders(self) -> list[SlideLoader]:
        """One loader per set of patients."""
        return [SlideLoader(scorer) for scorer in self._scorers.values()]

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note when a slide begins."""
        self._begun = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add up the time of slides that are only watched."""
        if list(self._scorers)[dataloader_idx] == WATCHED:
            self.watching_seconds += time.perf_counter() - self._begun

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the scores and log them."""
        self.scores = {
            f"{name}/{metric}": value
            for name, scorer in self._scorers.items()
            for metric, value in scorer.pooled_scores().items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(self.scores, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"watching_seconds": self.watching_seconds}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the seconds of the fit being resumed."""
        self.watching_seconds = float(state_dict["watching_seconds"])
