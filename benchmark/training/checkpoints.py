"""What a fit leaves in its folder, and when: ``last.ckpt`` while it runs, ``fitted.pt`` once it is over."""

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
    """``torch.save`` that is there in full or not at all, whatever kills the process."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_aside(path, buffer.getvalue())


def read_torch(path: Path) -> dict[str, Any]:
    """What ``write_torch`` wrote, on the CPU.

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
    """The trained weights (``state_dict``) of a fit that is over.

    Raises:
        DataError: it is not, or the file is damaged.
    """
    path = folder / FITTED
    if not path.is_file():
        raise DataError(f"{path}: no such file; training in this folder has not finished")
    state: dict[str, Tensor] = read_torch(path)["state"]
    return state


def usable(path: Path) -> bool:
    """Whether there is such a file and it can be read; a damaged one is moved aside with a warning."""
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
    """Remove what a process that was killed while it wrote has left beside the checkpoints."""
    for name in (LAST, FITTED):
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


class Stopped(Exception):
    """Leaves Lightning's loop; a KeyboardInterrupt would make Lightning end the process."""


class Checkpoints(Checkpoint):
    """Writes the checkpoint by the clock, when asked to stop and when interrupted; counts the seconds of the fit.

    Args:
        path: of the checkpoint.
        minutes: between two checkpoints.
        world: all processes write together: the clock of process 0 counts, and any can ask to stop.
        stop: whether to stop, asked after every step; without it Lightning answers SIGTERM itself.
    """

    def __init__(self, path: Path, minutes: float, world: World, stop: Callable[[], bool] | None) -> None:
        self._path, self._every, self._world, self._stop = path, minutes * 60, world, stop
        self._handlers = _handlers()
        self._started = self._written_at = time.perf_counter()
        self._seconds_before = 0.0
        self._written_step: int | None = None
        self.stopped = False

    @property
    def seconds(self) -> float:
        """Of this fit and those that it goes on from."""
        return self._seconds_before + time.perf_counter() - self._started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to write."""
        self._written_step, self._written_at = trainer.global_step, time.perf_counter()
        if self._stop is not None or self._world.size > 1:
            # Lightning's handler would end the fit in this process alone, after a collective call that no other makes.
            _handle(self._handlers)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write if it is time; stop if anybody says so. The last step is kept as the result, not as a checkpoint."""
        asked = self._stop is not None and self._stop()
        late = self._world.rank == 0 and time.perf_counter() - self._written_at >= self._every
        self.stopped, due = (bool(n) for n in sum_over_processes(torch.tensor([int(asked), int(late)])))
        if trainer.global_step == trainer.max_steps:
            return
        if self.stopped or due:
            self._write(trainer)
        if self.stopped:
            raise Stopped

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write if somebody interrupts; what failed is not gone on from, and of several processes one cannot write."""
        begun = self._written_step is not None and self._written_step != trainer.global_step
        if begun and self._world.size == 1 and not isinstance(exception, Exception):
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path)
        self._written_step, self._written_at = trainer.global_step, time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Seconds of the fit that is resumed."""
        self._seconds_before = float(state_dict["seconds"])


@contextmanager
def signals_as_before() -> Iterator[None]:
    """Take back the handlers that Lightning leaves behind, which would answer for a fit that is over."""
    handlers = _handlers()
    try:
        yield
    finally:
        _handle(handlers)


def _handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _handle(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # no other may, and Lightning knows that, too
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
