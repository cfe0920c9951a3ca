"""Executor on this machine: one warm worker process per slot."""

from __future__ import annotations

import time
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from tissuebench.plans.compute import ComputeSettings
from tissuebench.runtime.gpus import slots_of
from tissuebench.sweep.jobs import Ended, Job
from tissuebench.sweep.supervisor import Limits, Worker

_LOOK_SECONDS = 0.5


class LocalExecutor:
    """Runs tasks in worker processes of this machine; a worker that dies is replaced."""

    def __init__(self, compute: ComputeSettings, home: Path) -> None:
        self._slots = slots_of(compute)
        self._limits = Limits.of(compute, len(self._slots))
        self._workers: list[Worker | None] = [None] * len(self._slots)

    @property
    def capacity(self) -> int:
        """One task per slot."""
        return len(self._slots)

    @property
    def start_up_seconds(self) -> list[float]:
        """Seconds each worker took from its start until it was ready for tasks."""
        return [worker.start_up_seconds for worker in self._workers if worker is not None]

    def start(self, job: Job) -> None:
        """Give a task to an idle worker, or to a new one."""
        idle = [place for place, worker in enumerate(self._workers) if worker is None or worker.job is None]
        place = next((place for place in idle if self._is_warm(place)), idle[0])
        worker = self._workers[place]
        if worker is None or not worker.is_alive:
            if worker is not None:
                worker.end(grace=0)
            worker = self._workers[place] = Worker(self._slots[place], self._limits)
        worker.give(job)

    def poll(self, seconds: float) -> list[Ended]:
        """Return the tasks that ended; waits up to ``seconds`` for the first."""
        until = time.monotonic() + seconds
        ended: list[Ended] = []
        while not ended:
            busy = [worker for worker in self._workers if worker is not None and worker.job is not None]
            with DefaultSelector() as selector:
                for worker in busy:
                    selector.register(worker, EVENT_READ, worker)
                for key, _ in selector.select(max(0.0, min(_LOOK_SECONDS, until - time.monotonic()))):
                    heard = key.data.hear()
                    if heard is not None:
                        ended.append(heard)
            for worker in busy:
                worker.watch()
            if time.monotonic() >= until:
                break
        return ended

    def stop(self) -> None:
        """Ask all workers to checkpoint and hand back their tasks."""
        for worker in self._workers:
            if worker is not None:
                worker.ask_to_stop()

    def close(self) -> None:
        """End all workers; idle ones exit by themselves."""
        for worker in self._workers:
            if worker is not None:
                worker.ask_to_stop()
        for worker in self._workers:
            if worker is not None:
                worker.end()
        self._workers = [None] * len(self._slots)

    def _is_warm(self, place: int) -> bool:
        worker = self._workers[place]
        return worker is not None and worker.is_alive
