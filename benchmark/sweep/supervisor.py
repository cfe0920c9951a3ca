"""Supervision of worker processes from outside: starting, feeding, watching for death, stalls and memory, stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector

import psutil

from tissuebench.common.cores import allotted_memory
from tissuebench.plans.compute import ComputeSettings
from tissuebench.runtime.gpus import Slot
from tissuebench.runtime.processes import World
from tissuebench.sweep.jobs import Ended, Job, Outcome
from tissuebench.sweep.state.folders import LOG, task_folder
from tissuebench.sweep.state.heartbeat import own_memory, read_progress

READY, STAYS, LEAVES = "ready", "stays", "leaves"
"""First words of a worker's output lines: ready for tasks; a task has ended, and it stays for more, or exits."""

CHECKPOINT_MINUTES = "TISSUEBENCH_CHECKPOINT_MINUTES"
_LOOK_SECONDS = 1.0
_IMPORT_SECONDS = 300.0
"""Time that a worker may take for its imports: slow on a busy machine, or from a network drive."""
_GRACE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits at which a task is ended (seconds without progress, bytes of memory), and the interval of checkpoints."""

    stall_seconds: float
    memory_bytes: int | None
    checkpoint_minutes: float

    @classmethod
    def of(cls, compute: ComputeSettings, slots: int = 1) -> Limits:
        """Return the plan's limits; if it sets none for memory, a fair share of this machine's."""
        memory = compute.memory_gb * 2**30 if compute.memory_gb else 0.95 * allotted_memory() / slots
        return cls(compute.stall_minutes * 60, int(memory), compute.checkpoint_minutes)


class Worker:
    """Processes of one slot, kept warm from task to task.

    Args:
        slot: resources that they may use.
        limits: limits at which a task is ended.
        worlds: the processes to start; by default those of the slot.
    """

    def __init__(self, slot: Slot, limits: Limits, worlds: Sequence[World] | None = None) -> None:
        self._limits = limits
        self.job: Job | None = None
        self.start_up_seconds = 0.0
        self._began = self._started = self._looked = self._moved = time.monotonic()
        self._count = -1
        self._killed: Ended | None = None
        self._said = b""
        self._is_ready = self._is_leaving = False
        worlds = slot.worlds() if worlds is None else worlds
        self._processes = [_start(slot, limits, world) for world in worlds]

    @property
    def is_alive(self) -> bool:
        """Whether it can be given a task."""
        return (
            not self._is_leaving and self._killed is None and all(process.poll() is None for process in self._processes)
        )

    def fileno(self) -> int:
        """Return the file descriptor for a selector: readable when the worker has output or is dead."""
        output = self._processes[0].stdout
        assert output is not None  # noqa: S101 - it is a pipe
        return output.fileno()

    def give(self, job: Job) -> None:
        """Start a task."""
        self.job = job
        self._started = self._moved = time.monotonic()
        self._count = -1
        for process in self._processes:
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            with suppress(BrokenPipeError):  # it died: ``hear`` reports it
                process.stdin.write((job.to_json() + "\n").encode())
                process.stdin.flush()

    def hear(self) -> Ended | None:
        """Read the worker's output and return how its task ended, if it has; call when readable."""
        heard = os.read(self.fileno(), 1 << 16)
        if not heard:
            return self._dead()
        *lines, self._said = (self._said + heard).split(b"\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == READY:
                self._is_ready, self._moved = True, time.monotonic()
                self.start_up_seconds = self._moved - self._began
            if word in (STAYS, LEAVES):
                self.job = None
                self._is_leaving = word == LEAVES
                return Ended.from_json(rest)
        return None

    def _dead(self) -> Ended | None:
        code = self._processes[0].wait()
        self._kill()
        job, self.job = self.job, None
        if job is None:
            return None
        seconds = time.monotonic() - self._started
        return self._killed or Ended(job.key, Outcome.LOST, _how(code) + _tail(job), seconds)

    def watch(self) -> None:
        """End the task if it uses too much memory or makes no progress; ``hear`` returns the outcome."""
        now = time.monotonic()
        if self.job is None or self._killed is not None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        progress = read_progress(task_folder(self.job.home, self.job.kind, self.job.key))
        if progress is not None and progress.count != self._count:
            self._count, self._moved = progress.count, now
        stalled, taken = now - self._moved, self._memory()
        patience = self._limits.stall_seconds if self._is_ready else max(self._limits.stall_seconds, _IMPORT_SECONDS)
        if stalled > patience:
            reason = f"no progress for {_for_people(patience)} (compute.stall_minutes)"
            self._kill(Ended(self.job.key, Outcome.STALLED, reason + _tail(self.job), now - self._started))
        elif self._limits.memory_bytes and taken > self._limits.memory_bytes:
            reason = (
                f"took {taken / 2**30:.1f} GB of memory; its slot has {self._limits.memory_bytes / 2**30:.1f} "
                "(compute.memory_gb)"
            )
            self._kill(Ended(self.job.key, Outcome.MEMORY, reason, now - self._started))
        elif codes := [code for process in self._processes[1:] if (code := process.poll())]:
            reason = f"of {len(self._processes)} processes one has died: {_how(codes[0])}"
            self._kill(Ended(self.job.key, Outcome.LOST, reason + _tail(self.job), now - self._started))

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint and for the task back; the worker exits afterwards.

        It closes the worker's input instead of sending a signal: a scheduler's signals to all processes of a job may be
        blocked, so that they do not end the data loaders of a worker.
        """
        for process in self._processes:
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            with suppress(BrokenPipeError):
                process.stdin.close()

    def end(self, grace: float = _GRACE_SECONDS) -> None:
        """Shut down: an idle worker exits by itself, a busy one hands back; remaining processes are then killed."""
        self.ask_to_stop()
        until = time.monotonic() + grace
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        self._kill()

    def _memory(self) -> int:
        taken = 0
        for process in self._processes:
            with suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                taken += sum(own_memory(each) for each in (parent, *parent.children(recursive=True)))
        return taken

    def _kill(self, why: Ended | None = None) -> None:
        self._killed = self._killed or why
        for process in self._processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # it leads its own group, which includes its loaders
            process.wait()


def run_supervised(
    job: Job, slot: Slot, limits: Limits, stop: Callable[[], bool], worlds: Sequence[World] | None = None
) -> Ended:
    """Run one task in its own worker processes; ``stop`` is called every second to ask whether to hand back.

    Args:
        job: the task.
        slot: resources that it may use on this machine.
        limits: limits at which it is ended.
        stop: whether to hand back.
        worlds: the processes that this node contributes; by default all of the slot. The first one's output is read.
    """
    worker = Worker(slot, limits, worlds)
    asked = False
    try:
        worker.give(job)
        with DefaultSelector() as selector:
            selector.register(worker, EVENT_READ)
            while True:
                if selector.select(_LOOK_SECONDS):
                    ended = worker.hear()
                    if ended is not None:
                        return ended
                worker.watch()
                if not asked and stop():
                    asked = True
                    worker.ask_to_stop()
    finally:
        worker.end()


def _start(slot: Slot, limits: Limits, world: World) -> subprocess.Popen[bytes]:
    environment = {**os.environ, CHECKPOINT_MINUTES: str(limits.checkpoint_minutes)}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(slot.threads)
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
    if world.size > 1:
        environment |= world.environment()
    command = [sys.executable, "-P", "-m", "tissuebench.sweep.worker"]
    return subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )


def _how(code: int) -> str:
    if code >= 0:
        return f"its process exited ({code})"
    with suppress(ValueError):
        return f"its process was killed ({signal.Signals(-code).name})"
    return f"its process was killed (signal {-code})"


def _tail(job: Job) -> str:
    path = task_folder(job.home, job.kind, job.key) / LOG
    return f"; see {path}" if path.is_file() else ""


def _for_people(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"
