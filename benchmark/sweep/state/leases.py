"""Leases record which process runs a task. A lease has an owner and a heartbeat and is void once its owner is gone.

The owner is a worker process. Another process on the same node sees at once whether it is alive; from another node, a
lease counts as abandoned when its heartbeat has not moved for ``ABANDONED_SECONDS`` of the reader's own clock, so that
clocks of different nodes need not agree.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from tissuebench.common.files import exclusive, replace_quickly
from tissuebench.sweep.state.folders import LEASE

BEAT_SECONDS = 5.0
ABANDONED_SECONDS = 45.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Process that holds a lease, and its number of heartbeats."""

    token: str
    host: str
    pid: int
    started: float
    beat: int = 0

    @classmethod
    def this_process(cls) -> Owner:
        """Create the owner of a new lease of this process."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), pid, psutil.Process(pid).create_time())

    @property
    def is_known_dead(self) -> bool:
        """Whether it ran on this node and no longer does."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """Lease that this process holds on a task's folder."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self._path = folder / LEASE
        self._owner = owner

    def renew(self) -> bool:
        """Send another heartbeat; return False if another process has taken the task over in the meantime."""
        if not self.is_ours:
            return False
        self._owner = replace(self._owner, beat=self._owner.beat + 1)
        replace_quickly(self._path, json.dumps(asdict(self._owner)).encode())
        return True

    @property
    def is_ours(self) -> bool:
        """Whether no other process has taken it over; checked before a result is stored."""
        holder = _read(self._path)
        return holder is not None and holder.token == self._owner.token

    def release(self) -> None:
        """Give the task back."""
        if self.is_ours:
            self._path.unlink(missing_ok=True)


def holder_of(folder: Path) -> Owner | None:
    """Return the owner of the task's lease, unless it is known to be dead."""
    holder = _read(folder / LEASE)
    return None if holder is None or holder.is_known_dead else holder


def acquire(folder: Path, alive: Callable[[], None], patience: float = ABANDONED_SECONDS) -> Lease | Owner:
    """Take the task, or return the owner of its lease.

    Args:
        folder: folder of the task.
        alive: called now and then while the heartbeat of another node is watched.
        patience: seconds without a heartbeat after which a lease of another node is taken over.
    """
    held = holder_of(folder)
    started = time.monotonic()
    while held is not None and time.monotonic() - started < patience:
        if held.host == socket.gethostname():
            return held
        alive()
        time.sleep(min(_LOOK_SECONDS, patience))
        now = holder_of(folder)
        if now is not None and now != held:
            return now
        held = now
    ours = Owner.this_process()
    with exclusive(folder):
        now = holder_of(folder)
        if now is not None and now != held:
            return now
        replace_quickly(folder / LEASE, json.dumps(asdict(ours)).encode())
    lease = Lease(folder, ours)
    if not lease.is_ours:  # no locks on this file system, and another process wrote a moment later
        return holder_of(folder) or ours
    return lease


def _read(path: Path) -> Owner | None:
    with suppress(FileNotFoundError, ValueError, TypeError):
        return Owner(**json.loads(path.read_text()))
    return None
