"""SLURM side of a job: runs one task under supervision and gives the node back when SLURM needs it."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import DelayedSubmission

from tissuebench.common.files import write_aside
from tissuebench.executors.slurm_queue import run_slurm
from tissuebench.runtime.gpus import Slot, visible_gpus
from tissuebench.runtime.processes import World
from tissuebench.sweep.jobs import Ended, Job, Outcome
from tissuebench.sweep.supervisor import Limits, run_supervised

STOP_SIGNAL = signal.SIGINT
"""Signal to hand back for good: the sweep is being stopped."""

_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
"""Signals to hand back for now: the time limit is near, or another job gets the node."""

_SCHEDULED = (signal.SIGUSR1, signal.SIGUSR2)
_LOOK_SECONDS = 1.0


def ended_path(folder: Path, job_id: str) -> Path:
    """Return the path of the file in which a job reports how its task ended."""
    return folder / "ended" / f"{job_id}.json"


@dataclass(frozen=True, slots=True)
class SlurmTask:
    """One process of one task's trial, called by submitit on the node that SLURM chose.

    The supervisor and its worker must not notice that they run in SLURM: Lightning would take its ranks from there and
    requeue by itself.

    Attributes:
        task: the job in its one-line form.
        threads: threads of the worker.
        limits: limits at which the task is ended.
        folder: folder of the executor.
    """

    task: str
    threads: int
    limits: Limits
    folder: Path

    def __call__(self) -> None:
        """Run the task and report its end to the runner, unless SLURM is to start it again."""
        signals = _Signals()
        job = Job.from_json(self.task)
        environment = submitit.JobEnvironment()
        job_id, world = environment.job_id, _world(environment)
        for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
            del os.environ[name]
        if world.rank == 0:
            _rename(job_id, job.title)
        print(f"{job.kind} {job.title} ({job.key}), process {world.rank} of {world.size}", flush=True)
        slot = Slot(visible_gpus(), self.threads)
        ended = run_supervised(job, slot, self.limits, lambda: signals.warned or signals.stopped, (world,))
        print(f"{ended.outcome}: {ended.detail} ({ended.seconds:.0f} s)", flush=True)
        again = signals.warned and not signals.stopped and ended.outcome in (Outcome.INTERRUPTED, Outcome.LOST)
        path = ended_path(self.folder, job_id)
        if again and world.rank == 0 and _is_to_go_on(job_id, signals.certain or world.size == 1):
            run_slurm("scontrol", "requeue", job_id).check_returncode()
        elif not again:
            _tell(path, world, ended)
        while world.rank > 0 and not path.exists():  # srun ends the others a minute after the first has ended
            time.sleep(_LOOK_SECONDS)

    def checkpoint(self) -> DelayedSubmission:
        """Return the submission that submitit requeues if the warning arrives before the task has begun."""
        return DelayedSubmission(self)


class _Signals:
    """SLURM's signals, noted instead of obeyed.

    SLURM sends a signal to every process of a job, including the worker. The main thread blocks those that would end a
    worker or its data loaders, and the worker inherits the mask; threads started earlier by libraries still receive
    them, hence the handlers. The worker is asked to hand back through its standard input instead.
    """

    def __init__(self) -> None:
        self._noted: set[int] = set()
        for number in (STOP_SIGNAL, *_WARNINGS):
            signal.signal(number, lambda number, _: self._noted.add(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, (STOP_SIGNAL, *_WARNINGS))

    @property
    def stopped(self) -> bool:
        """Whether the runner has asked for the task back."""
        return STOP_SIGNAL in self._noted | signal.sigpending()

    @property
    def warned(self) -> bool:
        """Whether SLURM needs the node back."""
        return not (self._noted | signal.sigpending()).isdisjoint(_WARNINGS)

    @property
    def certain(self) -> bool:
        """Whether the warning can only have come from SLURM's schedule."""
        return not (self._noted | signal.sigpending()).isdisjoint(_SCHEDULED)


def _tell(path: Path, world: World, ended: Ended) -> None:
    """Report the end of the task; of several processes, the first to fail knows the reason and ends the others."""
    fine = ended.outcome in (Outcome.DONE, Outcome.INTERRUPTED)
    if (world.rank == 0 or not fine) and not path.exists():
        write_aside(path, ended.to_json().encode())
    if not fine:
        raise SystemExit(1)


def _world(environment: submitit.JobEnvironment) -> World:
    if environment.num_tasks == 1:
        return World()
    address = environment.hostnames[0]
    try:
        socket.getaddrinfo(address, None)
    except OSError:
        address = "127.0.0.1"  # nodes that are only aliases of one machine
    port = 20000 + int(environment.raw_job_id) % 20000
    return World(environment.global_rank, environment.local_rank, environment.num_tasks, address, port)


def _rename(job_id: str, title: str) -> None:
    """Show the title in ``squeue``: an array is submitted under a single name."""
    name = re.sub(r"[^\w.:=+-]+", "_", title, flags=re.ASCII)[:80]
    run_slurm("scontrol", "update", f"JobId={job_id}", f"JobName={name}")  # a site may forbid it, which does no harm


def _is_to_go_on(job_id: str, certain: bool) -> bool:
    """Return whether to requeue the job: it was neither cancelled, nor requeued by SLURM itself, nor did it break.

    The id is that of the array with the task's index: the job number of an array's last task alone means the whole
    array.

    Args:
        job_id: id of this job.
        certain: whether SLURM surely needs the node; srun also sends SIGTERM when another process of the trial dies.
    """
    asked = run_slurm("squeue", "--noheader", f"--jobs={job_id}", "--Format=State,PreemptTime")
    asked.check_returncode()
    state, preempted = asked.stdout.split()
    return state == "RUNNING" and (certain or preempted != "N/A")
