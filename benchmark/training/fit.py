"""One training stage with Lightning: timed checkpoints, seeds per step, and the last state as the result."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import Profiler

from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.methods.api import Method, Trainable
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.runtime.machine import Machine
from tissuebench.runtime.processes import ALONE, World, any_over_processes, sum_over_processes
from tissuebench.training.callbacks import (
    History,
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
from tissuebench.training.whole_batch import WholeBatchLayers

__all__ = ["Fit", "Interrupted", "TrainingError", "fit", "seed_everything", "weights_of", "write_history"]

_CHECKPOINT_MINUTES = 2.0
_EXPECTED_WARNINGS = (  # intended here: few workers, one folder per trial, a frozen encoder, no srun
    ".*(does not have many workers|LeafSpec|exists and is not empty|in eval mode|srun).*"
)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class Interrupted(KeyboardInterrupt):
    """The fit stopped on request; everything that the same call needs to pick up where it left off is stored."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Summary of a finished stage.

    Attributes:
        seconds: over all resumptions, without work lost to a kill.
        steps, samples: optimiser steps; tiles seen by all processes.
        history: (step, loss) every few steps.
        waiting: share of the seconds since the last resumption that was spent waiting for data.
        selected_step: the step whose state is the result, if one was selected.
    """

    seconds: float
    steps: int
    samples: int
    history: tuple[tuple[int, float], ...]
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
    keep_best: KeepBest | None = None,
    world: World = ALONE,
    stop: Callable[[], bool] | None = None,
    watchers: Sequence[Callback] = (),
) -> Fit:
    """Train ``method`` to the end of its step budget, from the checkpoint in ``folder`` if there is one.

    The result is the network after the last step, or the best one that ``keep_best`` saw. It is written to
    ``fitted.pt``; if that file exists, nothing is trained. The folder belongs to one stage. Steps and batches are the
    same whatever the number of processes, and so are random draws; results agree up to rounding.
    The processes must be connected (``runtime.processes.connected``) and all must call this.

    Args:
        method: the method of the trial, or an earlier stage.
        data: its batches.
        folder: folder for checkpoint and result.
        seed: seed of the trial, or of the stage.
        machine: device and precision.
        report: called with the number of finished steps.
        checkpoint_minutes: minutes between two checkpoints.
        keep_best: selects the result; by default it is the last state.
        world: the processes; by default this one alone.
        stop: queried after every step; to be passed by a process that handles SIGTERM itself.
        watchers: callbacks that see every step, before the checkpoint that may follow it.

    Raises:
        TrainingError: the loss became NaN or infinite.
        Interrupted: ``stop`` requested it; ``folder`` has a checkpoint of the last step, or the result if training was
            over.
        KeyboardInterrupt: Ctrl-C, or SIGTERM without ``stop``; a single process has written a checkpoint.
    """
    found = _found(folder, world)
    if found == FITTED:
        return _fitted(method, folder)
    training = method.task.training
    if training.compile and isinstance(method, Method):
        method.network.compile()
    history, checkpoints = History(world), Checkpoints(folder / LAST, checkpoint_minutes, world, stop)
    waiting = WaitingForData()
    callbacks = [StepSeeds(seed), history, StepReport(report), *([keep_best] if keep_best else []), *watchers]
    with warnings.catch_warnings(), signals_as_before():
        warnings.filterwarnings("ignore", message=_EXPECTED_WARNINGS)
        trainer = _trainer(training, machine, world, folder, [*callbacks, checkpoints], waiting)
        try:
            trainer.fit(method, data, ckpt_path=folder / LAST if found == LAST else None, weights_only=True)
        except Stopped:
            raise Interrupted(f"stopped at step {trainer.global_step} of {training.steps}") from None
        except SystemExit as interrupted:  # Lightning's answer to Ctrl-C and SIGTERM
            raise KeyboardInterrupt from interrupted
    if trainer.global_step != training.steps:
        raise TrainingError(f"stopped at step {trainer.global_step} of {training.steps}")
    selected = keep_best.step if keep_best else None
    points = tuple(history.points)
    fitted = Fit(checkpoints.seconds, training.steps, _samples(method), points, waiting.share, selected)
    if world.rank == 0:
        kept = {
            "state": method.state_dict(),
            "history": [list(point) for point in points],
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
    history = tuple((int(step), float(loss)) for step, loss in kept["history"])
    steps, waiting = method.task.training.steps, kept.get("waiting", 0.0)
    return Fit(kept["seconds"], steps, _samples(method), history, waiting, kept["selected_step"])


def _samples(method: Trainable[Any]) -> int:
    return method.task.training.steps * sum(stream.batch_size for stream in method.streams().values())


def _trainer(
    training: TrainingSettings,
    machine: Machine,
    world: World,
    folder: Path,
    callbacks: list[Callback],
    profiler: Profiler,
) -> Trainer:
    shared = [WholeBatchLayers(machine.device)] if world.size > 1 else []
    return Trainer(
        accelerator=machine.accelerator,
        devices=[machine.device.index or 0] if machine.accelerator == "gpu" else 1,
        strategy=OneDeviceDDP(machine.device) if world.size > 1 else "auto",
        plugins=[WorldEnvironment(world), CheckpointsAside(), *shared],
        precision=machine.precision,  # type: ignore[arg-type]
        max_steps=training.steps,
        max_epochs=-1,
        gradient_clip_val=training.gradient_clip,
        callbacks=callbacks,
        profiler=profiler,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def write_history(path: Path, history: tuple[tuple[int, float], ...]) -> None:
    """Write the loss curve as JSON lines."""
    path.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in history))
