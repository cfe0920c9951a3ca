"""Callbacks around every training step: seeds, curves, progress."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from torch import Tensor

from tissuebench.common.hashing import derive_seed
from tissuebench.errors import TissueBenchError
from tissuebench.methods.api.stage import LOSS_SCALE, Logged, Trainable
from tissuebench.results.records.curves import LOSS
from tissuebench.runtime.processes import gathered

_LOG_EVERY = 10


class TrainingError(TissueBenchError):
    """Training cannot continue, for example because the loss is no longer finite."""


def seed_everything(seed: int) -> None:
    """Seed every global generator; called once per stage or trial and once per step, by the benchmark only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from it
    torch.manual_seed(seed)


class StepSeeds(Callback):
    """Reseeds the global generators for every step, as a function of trial seed and step.

    Dropout and anything a method draws then depend on the step alone: a resumed trial continues with the same bits, and
    random numbers drawn by one method never shift those of another. The processes of a trial draw the same numbers,
    those of the whole batch, of which each uses the part of its tiles.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seed for the step about to begin."""
        seed_everything(derive_seed(self._seed, "step", trainer.global_step))


class StepLog(Callback):
    """Sends the values of every tenth step to the loggers, and stops a trial whose loss is not finite.

    To what the stage itself logs this adds loss, learning rates, speed and memory. With several processes, values are
    their means; the mean loss is that of the whole batch.

    Args:
        waiting: measures the share of the time spent waiting for data.
        samples_per_step: tiles per step in all processes.
    """

    def __init__(self, waiting: WaitingForData, samples_per_step: int) -> None:
        self._waiting, self._samples_per_step = waiting, samples_per_step
        self._since = self._paused = self._waited = 0.0
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._restart_clock(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Ask the stage to log, but not at every step, as reading values waits for the device."""
        step = trainer.global_step + 1
        stage = cast("Trainable[Any]", pl_module)
        stage.logs_step = step == 1 or step % _LOG_EVERY == 0 or step == trainer.max_steps
        stage.logged = {}
        if stage.logs_step:
            rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
            distinct = list(dict.fromkeys(rates))
            stage.logged |= {"train/rate" + f"_{n}" * (n > 1): rate for n, rate in enumerate(distinct, start=1)}

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Send what was logged in this step."""
        stage, step = cast("Trainable[Any]", pl_module), trainer.global_step
        if not stage.logs_step:
            return
        stage.logs_step = False
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        values = _mean_over_processes({LOSS: math.nan if loss is None else loss, **stage.logged})
        if not math.isfinite(values[LOSS]):
            terms = [name for name in stage.logged if not (name.startswith("train/") or math.isfinite(values[name]))]
            also = f"; not finite either: {', '.join(terms)}" if terms else ""
            raise TrainingError(f"loss is {values[LOSS]} at step {step}{also}")
        if values.get(LOSS_SCALE, 1.0) < 1:  # halved at every step whose gradients overflow, which changes no weight
            raise TrainingError(f"gradients overflow float16 at step {step}: set compute.precision=fp32")
        values |= self._speed(step, pl_module.device)
        for logger in trainer.loggers:
            logger.log_metrics(values, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock run again."""
        self._since += time.perf_counter() - self._paused

    def _restart_clock(self, step: int) -> None:
        self._since, self._step, self._waited = time.perf_counter(), step, self._waiting.seconds

    def _speed(self, step: int, device: torch.device) -> dict[str, float]:
        """Return speed since the last logged step, and peak memory since the start in GiB."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed = {
            "train/tiles_per_second": (step - self._step) * self._samples_per_step / seconds,
            "train/waiting": (self._waiting.seconds - self._waited) / seconds,
        }
        if device.type == "cuda":
            speed["train/gpu_memory"] = torch.cuda.max_memory_allocated(device) / 2**30
        self._restart_clock(step)
        return speed


def _mean_over_processes(values: Mapping[str, Logged]) -> dict[str, float]:
    """Return the mean of each value over the processes that logged it; every process must call this."""
    tensors = {name: value.double().reshape(()) for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: float(value) for name, value in values.items() if name not in tensors}  # type: ignore[arg-type]
    if tensors:  # read at once: each read waits for the device
        device = next((each.device for each in tensors.values() if each.device.type != "cpu"), torch.device("cpu"))
        read = torch.stack([each.to(device, non_blocking=True) for each in tensors.values()]).tolist()
        numbers |= dict(zip(tensors, read, strict=True))
    everybody = gathered({name: numbers[name] for name in values})
    names = dict.fromkeys(name for of_process in everybody for name in of_process)
    return {name: fmean(each[name] for each in everybody if name in each) for name in names}


class WaitingForData(Profiler):
    """Measures how long a fit waits for its next batch, with Lightning's profiler hooks."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = self._asked = time.perf_counter()
        self._waited = 0.0

    def start(self, action_name: str) -> None:
        """Note when an action begins."""
        if action_name == "run_training_epoch":
            self._begun = time.perf_counter()
        self._asked = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add up the time spent fetching batches; no other action begins while a batch is fetched."""
        if action_name.endswith("train_dataloader_next"):
            self._waited += time.perf_counter() - self._asked

    @property
    def seconds(self) -> float:
        """Seconds spent waiting."""
        return self._waited

    @property
    def share(self) -> float:
        """Share of the time since the fit began, or was resumed, that was spent waiting."""
        return self._waited / max(time.perf_counter() - self._begun, 1e-9)


class StepReport(Callback):
    """Reports every step to the progress display."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the first step, which is not 0 in a resumed fit."""
        self._report(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Report one more step."""
        self._report(trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Report the step again: a validation that takes long is no stall."""
        self._report(trainer.global_step)
