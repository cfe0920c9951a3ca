"""Progress and heartbeat of a running task, written to disk by its worker for other processes to read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

from tissuebench.common.files import replace_quickly
from tissuebench.sweep.state.leases import BEAT_SECONDS, Lease

_WRITE_SECONDS = 1.0
_PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a task.

    Attributes:
        phase: current activity: ``training``, ``scoring slides``, ...
        done, total: in units of the phase.
        first: amount done when the phase was first reported; more than 0 for training that was resumed.
        count: number of reports since the task was started; a supervisor detects a stall by it.
        rate: units of the phase per second.
        memory: bytes of this process that are not shared with files.
        peak_memory: maximum so far.
        gpu_memory: bytes that the task has on its GPU; 0 without one.
        time: time of writing, seconds since the epoch.
    """

    phase: str
    done: int
    total: int
    first: int
    count: int
    rate: float
    memory: int
    peak_memory: int
    gpu_memory: int
    time: float


def read_progress(folder: Path) -> Progress | None:
    """Return the last progress that a task's worker wrote, if any."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        return Progress(**json.loads((folder / _PROGRESS).read_text()))
    return None


def own_memory(process: psutil.Process) -> int:
    """Return the bytes of a process without memory mapped from files or shared, which the system can reclaim."""
    info = process.memory_info()
    return int(info.rss - getattr(info, "shared", 0))


class Reporter:
    """Writes progress every second and renews the lease; a context manager around one task.

    Args:
        folder: folder of the task.
        gpu_memory: returns the bytes in use on the GPU of this process.
    """

    def __init__(self, folder: Path, gpu_memory: Callable[[], int]) -> None:
        self._folder, self._gpu_memory = folder, gpu_memory
        self._process = psutil.Process()
        self._phase, self._done, self._total, self._count = "starting", 0, 0, 0
        self._phase_started = (time.monotonic(), 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.lease: Lease | None = None
        self.lost_lease = False
        self.peak_memory = 0

    def __enter__(self) -> Reporter:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        (self._folder / _PROGRESS).unlink(missing_ok=True)

    def phase(self, name: str, done: int, total: int) -> None:
        """Report progress in a phase."""
        if name != self._phase:
            self._phase_started = (time.monotonic(), done)
        self._phase, self._done, self._total = name, done, total
        self._count += 1

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(_WRITE_SECONDS):
            with suppress(OSError):  # a full disk must not end a task that does not need it
                self._write()
                if self.lease is not None and time.monotonic() - renewed >= BEAT_SECONDS:
                    renewed = time.monotonic()
                    self.lost_lease = not self.lease.renew()

    def _write(self) -> None:
        memory = own_memory(self._process)
        self.peak_memory = max(self.peak_memory, memory)
        since, first = self._phase_started
        rate = (self._done - first) / max(time.monotonic() - since, 1e-3)
        progress = Progress(
            phase=self._phase,
            done=self._done,
            total=self._total,
            first=first,
            count=self._count,
            rate=round(rate, 3),
            memory=memory,
            peak_memory=self.peak_memory,
            gpu_memory=self._gpu_memory(),
            time=time.time(),
        )
        replace_quickly(self._folder / _PROGRESS, json.dumps(asdict(progress)).encode())
