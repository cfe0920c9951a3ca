"""Checkpoint files of a fit: ``last.ckpt`` while it runs, ``fitted.pt`` once it has finished."""

from __future__ import annotations

import io
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from tissuebench.common.files import write_aside
from tissuebench.errors import DataError
from tissuebench.runtime.processes import World, sum_over_processes

LAST = "last.ckpt"
FITTED = "fitted.pt"
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """Save with ``torch.save`` atomically: the file is either complete or absent, even if the process is killed."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_aside(path, buffer.getvalue())


def read_torch(path: Path) -> dict[str, Any]:
    """Load a file written by ``write_torch``, onto the CPU.

    Raises:
        DataError: the file is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: cannot be read ({str(error).partition(chr(10))[0] or type(error).__name__})"
        ) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, which no fit writes")
    return content


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Return the trained weights (``state_dict``) of a finished fit.

    Raises:
        DataError: the fit has not finished, or the file is damaged.
    """
    path = folder / FITTED
    if not path.is_file():
        raise DataError(f"{path}: no such file; training in this folder has not finished")
    state: dict[str, Tensor] = read_torch(path)["state"]
    return state


def usable(path: Path) -> bool:
    """Return whether the file exists and can be read; a damaged one is moved aside with a warning."""
    if not path.is_file():
        return False
    try:
        read_torch(path)
    except DataError as error:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        warnings.warn(f"{error}; it is now {aside.name}, and the training starts without it", stacklevel=2)
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files next to the checkpoints, left by a process that was killed while writing."""
    for name in (LAST, FITTED):
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


class Stopped(Exception):
    """Exits Lightning's training loop; a KeyboardInterrupt would make Lightning end the process."""


class Checkpoints(Checkpoint):
    """Writes checkpoints at time intervals and when asked to stop, after a step and the validation that follows it.

    Lightning's ``ModelCheckpoint`` writes between the two, and a fit resumed from there omits the validation.

    Args:
        path: path of the checkpoint.
        minutes: minutes between two checkpoints.
        world: all processes write together: the clock of process 0 decides, and any process can request a stop.
        stop: whether to stop, queried after every step; without it Lightning handles SIGTERM itself.
    """

    def __init__(self, path: Path, minutes: float, world: World, stop: Callable[[], bool] | None) -> None:
        self._path, self._every, self._world, self._stop = path, minutes * 60, world, stop
        self._handlers = _handlers()
        self._written_at = 0.0
        self.stopped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; from here on there is progress to save."""
        self._written_at = time.perf_counter()
        if self._stop is not None or self._world.size > 1:
            # Lightning's handler would end the fit in this process alone, after a collective call that no other makes.
            _handle(self._handlers)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write and stop as requested, but not before a validation."""
        every = trainer.val_check_batch if trainer.enable_validation else None
        if not every or trainer.global_step % every:
            self._write_and_stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and stop as requested."""
        self._write_and_stop(trainer)

    def _write_and_stop(self, trainer: Trainer) -> None:
        """Write if due, and stop if any process asks to. The last step is kept as the result, not as a checkpoint."""
        asked = self._stop is not None and self._stop()
        late = self._world.rank == 0 and time.perf_counter() - self._written_at >= self._every
        self.stopped, due = (bool(n) for n in sum_over_processes(torch.tensor([int(asked), int(late)])))
        if trainer.global_step == trainer.max_steps:
            return
        if self.stopped or due:
            for logger in trainer.loggers:
                logger.save()  # what the checkpoint is past must not be lost
            trainer.save_checkpoint(self._path)
            self._written_at = time.perf_counter()
        if self.stopped:
            raise Stopped


@contextmanager
def signals_as_before() -> Iterator[None]:
    """Restore the signal handlers after Lightning, which leaves behind handlers that would act for a finished fit."""
    handlers = _handlers()
    try:
        yield
    finally:
        _handle(handlers)


def _handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _handle(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # no other thread may; Lightning also respects this
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
