"""This machine: one warm worker process a slot."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from tissuebench.errors import ConfigError
from tissuebench.plans.compute import ComputeSettings
from tissuebench.runtime.gpus import visible_gpus
from tissuebench.sweep.jobs import Ended, Job
from tissuebench.sweep.supervisor import Limits, Slot, Worker

_LOOK_SECONDS = 0.5


class LocalExecutor:
    """Runs nodes in worker processes of this machine; a worker that dies is replaced."""

    def __init__(self, compute: ComputeSettings, home: Path) -> None:
        self._slots = slots_of(compute)
        self._limits = Limits.of(compute, len(self._slots))
        self._workers: list[Worker | None] = [None] * len(self._slots)

    @property
    def capacity(self) -> int:
        """One node a slot."""
        return len(self._slots)

    @property
    def start_up_seconds(self) -> list[float]:
        """What each worker took from its start until it could be given nodes."""
        return [worker.start_up_seconds for worker in self._workers if worker is not None]

    def start(self, job: Job) -> None:
        """Give a node to an idle worker, or to a new one."""
        idle = [place for place, worker in enumerate(self._workers) if worker is None or worker.job is None]
        place = next((place for place in idle if self._is_warm(place)), idle[0])
        worker = self._workers[place]
        if worker is None or not worker.is_alive:
            if worker is not None:
                worker.end(grace=0)
            worker = self._workers[place] = Worker(self._slots[place], self._limits)
        worker.give(job)

    def poll(self, seconds: float) -> list[Ended]:
        """Nodes that ended; waits up to ``seconds`` for the first."""
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
        """Ask all workers for their nodes."""
        for worker in self._workers:
            if worker is not None:
                worker.ask_to_stop()

    def close(self) -> None:
        """End all workers; those that are idle leave by themselves."""
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


def slots_of(compute: ComputeSettings) -> list[Slot]:
    """The slots of this machine: GPUs dealt out, or cores.

    Raises:
        ConfigError: more processes of a trial than its slot has GPUs, or GPUs that do not exist.
    """
    there = _gpus_of_this_machine() if compute.gpus is None or compute.gpus else []
    gpus = there if compute.gpus is None else [str(gpu) for gpu in compute.gpus]
    missing = sorted(set(gpus) - set(there))
    if missing:
        raise ConfigError(f"compute.gpus: this machine has no GPU {missing[0]}, it has {len(there)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = compute.processes
    if not gpus:
        threads, processes = compute.threads or 1, processes or 1
        n_slots = compute.slots or max(1, cores // (threads * processes))
        return [Slot((), threads, processes)] * n_slots
    n_slots = compute.slots or max(1, len(gpus) // (processes or 1))
    hands = [tuple(gpus[place::n_slots]) or (gpus[place % len(gpus)],) for place in range(n_slots)]
    if processes and processes > min(map(len, hands)):
        raise ConfigError(
            f"compute.processes: {processes} processes a trial need as many GPUs in each slot; {len(gpus)} GPUs in "
            f"{n_slots} slots are fewer"
        )
    threads = compute.threads or max(1, cores // max(n_slots, len(gpus)))
    return [Slot(hand[: processes or len(hand)], threads, processes or len(hand)) for hand in hands]


def _gpus_of_this_machine() -> list[str]:
    """Ids that ``CUDA_VISIBLE_DEVICES`` leaves; asked of the driver's tool, as CUDA itself would take memory."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return list(visible_gpus())
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]
