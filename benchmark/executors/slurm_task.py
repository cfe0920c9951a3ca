"""The job on SLURM's side: it runs one task under supervision and gives the machine back when SLURM wants it."""

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
"""Hand back for good: the sweep is being stopped."""

_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
"""Hand back for now: the time limit is near, or somebody else gets the machine."""

_SCHEDULED = (signal.SIGUSR1, signal.SIGUSR2)
_LOOK_SECONDS = 1.0


def ended_path(folder: Path, job_id: str) -> Path:
    """Where a job says how its task ended."""
    return folder / "ended" / f"{job_id}.json"


@dataclass(frozen=True, slots=True)
class SlurmTask:
    """One process of one task's trial, called by submitit on the machine that SLURM chose.

    The supervisor and its worker are not told that they run in SLURM: Lightning would take its ranks from there and
    requeue by itself.

    Attributes:
        task: the job in its one-line form.
        threads: of the worker.
        limits: when the task is given up.
        folder: of the executor.
    """

    task: str
    threads: int
    limits: Limits
    folder: Path

    def __call__(self) -> None:
        """Run the task; how it ended is written for the runner unless SLURM is to start it again."""
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
        while world.rank > 0 and not path.exists():  # srun ends what is left a minute after the first has ended
            time.sleep(_LOOK_SECONDS)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts again if the warning comes before the task was begun."""
        return DelayedSubmission(self)


class _Signals:
    """SLURM's signals, noted instead of obeyed.

    SLURM sends a signal to every process of a job, the worker too. The main thread blocks those that a worker would die
    of, and the worker inherits that; threads that libraries have started before still get them, hence the handlers.
    SIGTERM is not among them: a worker takes it for the request to hand back, which it is.
    """

    def __init__(self) -> None:
        self._noted: set[int] = set()
        for number in (STOP_SIGNAL, *_WARNINGS):
            signal.signal(number, lambda number, _: self._noted.add(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, (STOP_SIGNAL, *_WARNINGS))

    @property
    def stopped(self) -> bool:
        """Whether the runner wants the task back."""
        return STOP_SIGNAL in self._noted | signal.sigpending()

    @property
    def warned(self) -> bool:
        """Whether SLURM wants the machine back."""
        return not (self._noted | signal.sigpending()).isdisjoint(_WARNINGS)

    @property
    def certain(self) -> bool:
        """Whether the warning was one that nothing but SLURM's schedule gives."""
        return not (self._noted | signal.sigpending()).isdisjoint(_SCHEDULED)


def _tell(path: Path, world: World, ended: Ended) -> None:
    """Leave word of the end; of several processes the one that fails first knows why, and takes the others with it."""
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
        address = "127.0.0.1"  # nodes that are only names of one machine
    port = 20000 + int(environment.raw_job_id) % 20000
    return World(environment.global_rank, environment.local_rank, environment.num_tasks, address, port)


def _rename(job_id: str, title: str) -> None:
    """Show the title in ``squeue``: an array is submitted under one name."""
    name = re.sub(r"[^\w.:=+-]+", "_", title, flags=re.ASCII)[:80]
    run_slurm("scontrol", "update", f"JobId={job_id}", f"JobName={name}")  # a site may forbid it: no harm


def _is_to_go_on(job_id: str, certain: bool) -> bool:
    """Whether the job is to be requeued: it was neither cancelled, nor requeued by SLURM itself, nor broken.

    The id is that of the array with the task's index: the number of an array's last task alone means the whole array.

    Args:
        job_id: of this job.
        certain: whether SLURM surely wants the machine; srun sends SIGTERM when another process of the trial dies, too.
    """
    asked = run_slurm("squeue", "--noheader", f"--jobs={job_id}", "--Format=State,PreemptTime")
    asked.check_returncode()
    state, preempted = asked.stdout.split()
    return state == "RUNNING" and (certain or preempted != "N/A")
