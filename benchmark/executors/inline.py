"""Executor in this process, one task after another: for debuggers, and for methods that only this process knows."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tissuebench.plans.compute import ComputeSettings
from tissuebench.sweep.jobs import Ended, Job


class InlineExecutor:
    """Runs each task during ``poll``, without supervision."""

    def __init__(self, compute: ComputeSettings, home: Path) -> None:
        from tissuebench.sweep.session import Session

        self._asked_to_stop = threading.Event()
        self._session = Session(self._asked_to_stop)
        self._waiting: list[Job] = []

    @property
    def capacity(self) -> int:
        """One task."""
        return 1

    def start(self, job: Job) -> None:
        """Queue the task."""
        self._waiting.append(job)

    def poll(self, seconds: float) -> list[Ended]:
        """Run the queued tasks."""
        jobs, self._waiting = self._waiting, []
        ended = []
        for job in jobs:
            started = time.perf_counter()
            self._session.folder(job).mkdir(parents=True, exist_ok=True)
            outcome, detail = self._session.run(job)
            ended.append(Ended(job.key, outcome, detail, time.perf_counter() - started))
        return ended

    def stop(self) -> None:
        """Ask the running task to stop at its next step."""
        self._asked_to_stop.set()

    def close(self) -> None:
        """Do nothing: no resources are held."""
