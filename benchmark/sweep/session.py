"""State that a worker process keeps between tasks, isolated so that no task is affected by what ran before it."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch

from tissuebench.common.hashing import Json
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.runtime.determinism import prepare_process
from tissuebench.runtime.machine import detect_machine
from tissuebench.runtime.memory import return_freed_memory
from tissuebench.runtime.processes import World, connected
from tissuebench.sweep.jobs import Job, Outcome
from tissuebench.sweep.reasons import is_out_of_gpu_memory, reason_of
from tissuebench.sweep.run_task import Surroundings, run_task
from tissuebench.sweep.state import journal
from tissuebench.sweep.state.failures import TaskFailure, forget_failure, keep_failure
from tissuebench.sweep.state.folders import JOB, LOG, clear_attempt, is_finished, task_folder
from tissuebench.sweep.state.heartbeat import Reporter, own_memory
from tissuebench.sweep.state.leases import Lease, acquire
from tissuebench.sweep.supervisor import CHECKPOINT_MINUTES
from tissuebench.training.fit import Interrupted

_GROWN_BYTES = 1 << 30


class TaskTaken(Exception):
    """Another process has taken the task over while it ran here."""


class Session:
    """Runs tasks in this process, one after another.

    Args:
        asked_to_stop: set when the task is to be handed back.
    """

    def __init__(self, asked_to_stop: threading.Event) -> None:
        self._asked_to_stop = asked_to_stop
        self._world = World.from_environment()
        self._reporter: Reporter | None = None
        prepare_process()
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._clean, self._memory = _process_state(), own_memory(psutil.Process())
        self._around = Surroundings(
            world=self._world,
            checkpoint_minutes=float(os.environ.get(CHECKPOINT_MINUTES, "2")),
            report=self._report,
            stop=asked_to_stop.is_set,
            peak_memory=lambda: self._reporter.peak_memory if self._reporter else 0,
        )
        self.is_spoilt = self._world.size > 1  # processes that shared a trial are not reused

    @property
    def is_beside(self) -> bool:
        """Whether this is a further process of a trial, of which process 0 writes and reports."""
        return self._world.rank > 0

    @property
    def log_name(self) -> str:
        """Name of the file in the task's folder that receives its output."""
        return f"log-{self._world.rank}.txt" if self._world.rank else LOG

    def folder(self, job: Job) -> Path:
        """Return the folder in which the task keeps its files."""
        return task_folder(job.home, job.kind, job.key)

    def run(self, job: Job) -> tuple[Outcome, str]:
        """Run one task; a failure is recorded in the task's folder, with the traceback."""
        folder = self.folder(job)
        if self.is_beside:
            return self._run_beside(job)
        with Reporter(folder, _gpu_memory) as self._reporter:
            lease = acquire(folder, lambda: self._report("waiting for an abandoned lease", 0, 0))
            if not isinstance(lease, Lease):
                return Outcome.HELD, str(lease)
            try:
                if is_finished(job.home, job.kind, job.key):
                    return Outcome.DONE, "already finished"
                self._reporter.lease = lease
                return self._run_leased(job, folder, lease)
            finally:
                lease.release()

    def _run_leased(self, job: Job, folder: Path, lease: Lease) -> tuple[Outcome, str]:
        def may_store() -> None:
            if not lease.is_ours:
                raise TaskTaken

        resumed = (folder / "last.ckpt").is_file()
        journal.note(folder, "started", pid=os.getpid(), resumed=resumed)
        (folder / JOB).write_text(job.to_json())
        said = f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {job.kind} {job.title} ({job.key})"
        print(said, file=sys.stderr, flush=True)  # with the inline executor, standard output belongs to the command
        forget_failure(job.home, job.kind, job.key)
        try:
            took = self._run(job, may_store)
        except (Interrupted, TaskTaken) as stopped:
            taken = isinstance(stopped, TaskTaken) or not lease.is_ours
            journal.note(folder, "taken over" if taken else "interrupted")
            return (Outcome.HELD, "taken over by another process") if taken else (Outcome.INTERRUPTED, "")
        except Exception as error:
            if self._world.size > 1 and _speaks_of_the_others(error):
                traceback.print_exc()
                return Outcome.LOST, f"of {self._world.size} processes one has died; see log-*.txt in {folder}"
            reason = reason_of(error)
            # Its tensors live as long as the traceback: another slot of the GPU gets their memory from the next worker.
            self.is_spoilt = self.is_spoilt or is_out_of_gpu_memory(error)
            traceback.print_exc()
            clear_attempt(folder)
            journal.note(folder, "failed", reason=reason)
            keep_failure(job, TaskFailure(reason, traceback.format_exc()))
            return Outcome.FAILED, reason
        journal.note(folder, "done", **took)
        return Outcome.DONE, ""

    def _run_beside(self, job: Job) -> tuple[Outcome, str]:
        """Run the task as one of the further processes of a trial; process 0 writes and reports."""
        try:
            self._run(job, lambda: None)
        except Interrupted:
            return Outcome.INTERRUPTED, ""
        return Outcome.DONE, ""

    def _run(self, job: Job, may_store: Callable[[], None]) -> dict[str, Json]:
        device = detect_machine(EncoderMode.FROZEN, self._world).device
        try:
            with connected(self._world, device):
                return run_task(job, self._around, may_store)
        finally:
            return_freed_memory()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            grown = own_memory(psutil.Process()) - self._memory - self._around.held_bytes
            self.is_spoilt = self.is_spoilt or _process_state() != self._clean or grown > _GROWN_BYTES

    def _report(self, phase: str, done: int, total: int) -> None:
        if self._reporter is not None:
            self._reporter.phase(phase, done, total)


def _process_state() -> tuple[object, ...]:
    """Return the process-wide state that a task must not leave changed.

    Random generators are not part of it: each step seeds them.
    """
    return (
        Path.cwd(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"),
        tuple(sorted(np.geterr().items())),
        sum(not thread.daemon for thread in threading.enumerate()),
    )


def _speaks_of_the_others(error: Exception) -> bool:
    """Return whether a collective call failed; gloo raises plain runtime errors."""
    said = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or "gloo" in said or "nccl" in said


def _gpu_memory() -> int:
    return torch.cuda.memory_reserved()  # 0 where CUDA was not used
