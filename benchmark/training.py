"""One training stage with Lightning: checkpoints by the clock, seeds by the step, the last state is the result."""

from __future__ import annotations

import json
import logging
import math
import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tissuebench.datasets.datamodule import TileDataModule
from tissuebench.errors import TissueBenchError
from tissuebench.hashing import derive_seed
from tissuebench.machine import Machine
from tissuebench.methods.base import Method
from tissuebench.selection import KeepBest

_CHECKPOINT_MINUTES = 2.0
_HISTORY_EVERY = 10
_CHECKPOINT = "last.ckpt"
_EXPECTED_WARNINGS = (  # what is meant here: few workers, a folder a trial, a frozen encoder
    ".*(does not have many workers|LeafSpec|exists and is not empty|in eval mode|filename='last').*"
)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class TrainingError(TissueBenchError):
    """Training cannot go on: the loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a stage took: seconds of this process, optimiser steps, tiles seen, loss every few steps."""

    seconds: float
    steps: int
    samples: int
    history: tuple[tuple[int, float], ...]


def seed_everything(seed: int) -> None:
    """Seed every global generator; called once a trial and once a step, by the benchmark only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from it
    torch.manual_seed(seed)


class StepSeeds(Callback):
    """Seeds the global generators anew for every step, as a function of trial seed and step.

    Dropout and anything a method draws then depend on the step alone: a resumed trial continues with the same bits,
    and what one method draws never moves what another sees.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seed for the step that begins."""
        seed_everything(derive_seed(self._seed, "step", trainer.global_step))


class History(Callback):
    """Keeps the loss every few steps in the checkpoint, and stops a trial whose loss is no number."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Record the loss; reading it waits for the device, so not at every step."""
        step = trainer.global_step
        if step % _HISTORY_EVERY and step != trainer.max_steps:
            return
        loss = float(outputs["loss"] if isinstance(outputs, Mapping) else outputs) if outputs is not None else math.nan
        if not math.isfinite(loss):
            raise TrainingError(f"loss is {loss} at step {step}")
        self.points.append((step, loss))

    def state_dict(self) -> dict[str, Any]:
        """The points so far."""
        return {"points": [list(point) for point in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The points of the fit that is resumed."""
        self.points = [(int(step), float(loss)) for step, loss in state_dict["points"]]


class StepReport(Callback):
    """Tells the progress display of every step."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed fit starts further on."""
        self._report(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """One more step."""
        self._report(trainer.global_step)


def fit(
    method: Method,
    data: TileDataModule,
    folder: Path,
    seed: int,
    machine: Machine,
    report: Callable[[int], None],
    checkpoint_minutes: float = _CHECKPOINT_MINUTES,
    keep_best: KeepBest | None = None,
) -> Fit:
    """Train ``method`` to the end of its step budget, from the checkpoint in ``folder`` if there is one.

    The network after the last step is the result, or the best that ``keep_best`` saw. The folder belongs to one trial.

    Raises:
        TrainingError: the loss became NaN or infinite.
        KeyboardInterrupt: interrupted; a checkpoint of the last step stands in ``folder``.
    """
    training = method.task.training
    history = History()
    checkpoint = ModelCheckpoint(
        dirpath=folder,
        filename="last",
        save_top_k=1,
        every_n_train_steps=None,
        train_time_interval=timedelta(minutes=checkpoint_minutes),
        save_on_exception=True,
        enable_version_counter=False,
    )
    if training.compile:
        method.network.compile()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_EXPECTED_WARNINGS)
        trainer = Trainer(
            accelerator=machine.accelerator,
            devices=1,
            precision=machine.precision,  # type: ignore[arg-type]
            max_steps=training.steps,
            max_epochs=-1,
            gradient_clip_val=training.gradient_clip,
            callbacks=[StepSeeds(seed), history, StepReport(report), *([keep_best] if keep_best else []), checkpoint],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        resume_from = folder / _CHECKPOINT
        started = time.perf_counter()
        try:
            trainer.fit(method, data, ckpt_path=resume_from if resume_from.is_file() else None, weights_only=True)
        except SystemExit as interrupted:  # Lightning's answer to Ctrl-C and SIGTERM, after it wrote a checkpoint
            raise KeyboardInterrupt from interrupted
    if trainer.global_step != training.steps:
        raise TrainingError(f"stopped at step {trainer.global_step} of {training.steps}")
    per_step = sum(stream.batch_size for stream in method.streams().values())
    return Fit(time.perf_counter() - started, training.steps, training.steps * per_step, tuple(history.points))


def write_history(path: Path, history: tuple[tuple[int, float], ...]) -> None:
    """Write the loss curve as JSON lines."""
    path.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in history))
