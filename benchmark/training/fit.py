"""One training stage with Lightning: timed checkpoints, seeds per step, curves, and the last state as the result."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.profilers import Profiler

from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.methods.api import Method, Trainable
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.runtime.machine import Machine
from tissuebench.runtime.precision import FP16
from tissuebench.runtime.processes import ALONE, World, any_over_processes, sum_over_processes
from tissuebench.training.callbacks import (
    StepLog,
    StepReport,
    StepSeeds,
    TrainingError,
    WaitingForData,
    seed_everything,
)
from tissuebench.training.checkpoint_selection import KeepBest
from tissuebench.training.checkpoints import (
    FITTED,
    LAST,
    Checkpoints,
    Stopped,
    read_torch,
    remove_leftovers,
    signals_as_before,
    usable,
    weights_of,
    write_torch,
)
from tissuebench.training.lightning_plugins import CheckpointsAside, OneDeviceDDP, WorldEnvironment
from tissuebench.training.loggers import CURVES_ONLY, OpenLoggers
from tissuebench.training.validation import Validation
from tissuebench.training.whole_batch import WholeBatchLayers

__all__ = ["Fit", "Interrupted", "TrainingError", "fit", "seed_everything", "weights_of"]

_CHECKPOINT_MINUTES = 2.0
_EXPECTED_WARNINGS = (  # intended here: few workers, one folder per trial, a frozen encoder, no validation, no srun
    ".*(does not have many workers|LeafSpec|exists and is not empty|in eval mode|have no `validation_step`|srun).*"
)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class Interrupted(KeyboardInterrupt):
    """The fit stopped on request; everything that the same call needs to pick up where it left off is stored."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Summary of a finished stage; its curves are in ``metrics.csv``.

    Attributes:
        seconds: over all resumptions, without work lost to a kill.
        steps, samples: optimiser steps; tiles seen by all processes.
        waiting: share of the seconds since the last resumption that was spent waiting for data.
        selected_step: the step whose state is the result, if one was selected.
    """

    seconds: float
    steps: int
    samples: int
    waiting: float = 0.0
    selected_step: int | None = None


def fit(
    method: Trainable[Any],
    data: TileDataModule,
    folder: Path,
    seed: int,
    machine: Machine,
    report: Callable[[int], None],
    checkpoint_minutes: float = _CHECKPOINT_MINUTES,
    validation: Validation | None = None,
    keep_best: KeepBest | None = None,
    world: World = ALONE,
    stop: Callable[[], bool] | None = None,
    watchers: Sequence[Callback] = (),
    open_loggers: OpenLoggers = CURVES_ONLY,
) -> Fit:
    """Train ``method`` to the end of its step budget, from the checkpoint in ``folder`` if there is one.

    The result is the network after the last step, or the best one that ``keep_best`` saw. It is written to
    ``fitted.pt``; if that file exists, nothing is trained. The folder belongs to one stage. Steps and batches are the
    same whatever the number of processes, and so are random draws; results agree up to rounding.
    The processes must be connected (``runtime.processes.connected``) and all must call this.

    Args:
        method: the method of the trial, or an earlier stage.
        data: its batches.
        folder: folder for checkpoint, curves and result.
        seed: seed of the trial, or of the stage.
        machine: device and precision.
        report: called with the number of finished steps.
        checkpoint_minutes: minutes between two checkpoints.
        validation: scores held-out patients every few steps.
        keep_best: selects the result by these scores; by default it is the last state.
        world: the processes; by default this one alone.
        stop: queried after every step; to be passed by a process that handles SIGTERM itself.
        watchers: callbacks that see every step, before the checkpoint that may follow it.
        open_loggers: opens the loggers of process 0; no logger changes the result.

    Raises:
        TrainingError: the loss became NaN or infinite.
        Interrupted: ``stop`` requested it; ``folder`` has a checkpoint of the last step, or the result if training was
            over.
        KeyboardInterrupt: Ctrl-C, or SIGTERM without ``stop``; the last checkpoint is at most ``checkpoint_minutes``
            old.
    """
    found = _found(folder, world)
    if found == FITTED:
        return _fitted(method, folder)
    training = method.task.training
    if training.compile and isinstance(method, Method):
        method.network.compile()
    checkpoints, timer, waiting = Checkpoints(folder / LAST, checkpoint_minutes, world, stop), Timer(), WaitingForData()
    callbacks = [timer, StepSeeds(seed), StepLog(waiting, _samples(method) // training.steps), StepReport(report)]
    callbacks += [callback for callback in (validation, keep_best) if callback is not None]
    data.held_out = validation.loaders if validation else []
    done = int(read_torch(folder / LAST)["global_step"]) if found == LAST and world.rank == 0 else 0
    loggers = open_loggers(folder, done) if world.rank == 0 else []
    with warnings.catch_warnings(), signals_as_before():
        warnings.filterwarnings("ignore", message=_EXPECTED_WARNINGS)
        trainer = _trainer(
            training, machine, world, folder, [*callbacks, *watchers, checkpoints], loggers, waiting, validation
        )
        try:
            trainer.fit(method, data, ckpt_path=folder / LAST if found == LAST else None, weights_only=True)
        except Stopped:
            raise Interrupted(f"stopped at step {trainer.global_step} of {training.steps}") from None
        except SystemExit as interrupted:  # Lightning's answer to Ctrl-C and SIGTERM
            raise KeyboardInterrupt from interrupted
        seconds = timer.time_elapsed()
        if validation and training.steps % validation.every:  # Lightning has not validated the last step
            begun = time.perf_counter()
            trainer.validate(method, datamodule=data, verbose=False)
            seconds += time.perf_counter() - begun
    if trainer.global_step != training.steps:
        raise TrainingError(f"stopped at step {trainer.global_step} of {training.steps}")
    if keep_best:
        keep_best.restore(method)
    selected = keep_best.step if keep_best else None
    seconds -= validation.watching_seconds if validation else 0.0
    fitted = Fit(seconds, training.steps, _samples(method), waiting.share, selected)
    if world.rank == 0:
        kept = {
            "state": method.state_dict(),
            "seconds": fitted.seconds,
            "waiting": fitted.waiting,
            "selected_step": selected,
        }
        write_torch(folder / FITTED, kept)
        (folder / LAST).unlink(missing_ok=True)
    if any_over_processes(checkpoints.stopped):  # once more, as no process may continue before the result is written
        raise Interrupted(f"stopped after the last step, {training.steps}")
    return fitted


def _found(folder: Path, world: World) -> str | None:
    """Return the file to start from, if any.

    Process 0 looks and all others follow, as they may look later or not see all of its files yet.
    """
    choices = (None, LAST, FITTED)
    choice = 0
    if world.rank == 0:
        remove_leftovers(folder)
        choice = 2 if usable(folder / FITTED) else int(usable(folder / LAST))
    return choices[int(sum_over_processes(torch.tensor(choice)))]


def _fitted(method: Trainable[Any], folder: Path) -> Fit:
    kept = read_torch(folder / FITTED)
    method.load_state_dict(kept["state"])
    steps, waiting = method.task.training.steps, kept.get("waiting", 0.0)
    return Fit(kept["seconds"], steps, _samples(method), waiting, kept["selected_step"])


def _samples(method: Trainable[Any]) -> int:
    return method.task.training.steps * sum(stream.batch_size for stream in method.streams().values())


def _trainer(
    training: TrainingSettings,
    machine: Machine,
    world: World,
    folder: Path,
    callbacks: list[Callback],
    loggers: list[Logger],
    profiler: Profiler,
    validation: Validation | None,
) -> Trainer:
    shared = [WholeBatchLayers(machine.device)] if world.size > 1 else []
    half = [MixedPrecision(FP16, machine.device.type)] if machine.precision == FP16 else []  # on CPUs, too
    return Trainer(
        accelerator=machine.accelerator,
        devices=[machine.device.index or 0] if machine.accelerator == "gpu" else 1,
        strategy=OneDeviceDDP(machine.device) if world.size > 1 else "auto",
        plugins=[WorldEnvironment(world), CheckpointsAside(), *shared, *half],
        precision=None if half else machine.precision,  # type: ignore[arg-type]
        max_steps=training.steps,
        max_epochs=-1,
        gradient_clip_val=training.gradient_clip,
        log_every_n_steps=1,  # without effect: StepLog decides
        callbacks=callbacks,
        profiler=profiler,
        logger=loggers,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validation else 0,
        val_check_interval=min(validation.every, training.steps) if validation else 1.0,
    )
