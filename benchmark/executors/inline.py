"""This process, one task after another: for debuggers, and for methods that only this process knows."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tissuebench.plans.compute import ComputeSettings
from tissuebench.sweep.jobs import Ended, Job


class InlineExecutor:
    """Runs a task while it is polled for; nothing watches it."""

    def __init__(self, compute: ComputeSettings, home: Path) -> None:
        from tissuebench.sweep.session import Session

        self._asked_to_stop = threading.Event()
        self._session = Session(self._asked_to_stop)
        self._waiting: list[Job] = []

    @property
    def capacity(self) -> int:
        """One."""
        return 1

    def start(self, job: Job) -> None:
        """Remember the task."""
        self._waiting.append(job)

    def poll(self, seconds: float) -> list[Ended]:
        """Run what waits."""
        jobs, self._waiting = self._waiting, []
        ended = []
        for job in jobs:
            started = time.perf_counter()
            self._session.folder(job).mkdir(parents=True, exist_ok=True)
            outcome, detail = self._session.run(job)
            ended.append(Ended(job.key, outcome, detail, time.perf_counter() - started))
        return ended

    def stop(self) -> None:
        """Hand back at the next step."""
        self._asked_to_stop.set()

    def close(self) -> None:
        """Nothing is held."""
