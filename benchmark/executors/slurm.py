"""Executor that runs tasks as SLURM jobs: submitted as arrays, watched without accounting, requeued when preempted.

A job writes how its task ended to a file in the shared folder. A killed job writes nothing: SLURM is queried for the
state of all jobs in one call, and a job that is over without such a file counts as lost.

If the runner itself is killed, its jobs stay queued, do the right thing when they run (their artefacts are stored, a
checkpointed one is requeued) and are found finished by the next run. If the next run starts the same tasks while they
are still queued, leases ensure that each is run once.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from tissuebench.errors import ConfigError
from tissuebench.executors.slurm_queue import SlurmQueue, run_slurm
from tissuebench.executors.slurm_task import STOP_SIGNAL, SlurmTask, ended_path
from tissuebench.plans.compute import ComputeSettings, SlurmSettings
from tissuebench.sweep.jobs import Ended, Job, Outcome
from tissuebench.sweep.supervisor import Limits

_ARRAY_MAX = 500
_LOOK_SECONDS = 0.5
_ASK_AGAIN_SECONDS = 10.0
_GRACE_SECONDS = 5.0
"""Maximum delay between a job's end in SLURM and its file's appearance on a shared file system."""


@dataclass(slots=True)
class _Submitted:
    """A task submitted to SLURM; times are seconds of the monotonic clock.

    Attributes:
        key: key of the task.
        started: when it was submitted.
        over_since: when it was first seen to be over without having reported its end.
        asked: when it was last asked to hand back.
    """

    key: str
    started: float
    over_since: float | None = None
    asked: float = float("-inf")


class SlurmExecutor:
    """Runs tasks on the SLURM cluster of this machine.

    Raises:
        ConfigError: there is no SLURM, or it refuses the requested resources; the message quotes it.
    """

    def __init__(self, compute: ComputeSettings, home: Path) -> None:
        self._settings = compute.slurm
        options = sbatch_options(compute.slurm)
        _check(self._settings, options)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._folder = home.absolute() / "runs" / "slurm" / name
        ended_path(self._folder, "").parent.mkdir(parents=True)
        self._limits = _limits(compute)
        self._threads = compute.threads or self._settings.cpus_per_gpu
        self._submitit = _submitit_executor(self._settings, options, self._folder)
        self._queue = SlurmQueue()
        self._gathered: list[Job] = []
        self._submitted: dict[str, _Submitted] = {}
        self._stopping = False

    @property
    def capacity(self) -> int:
        """Tasks that may be queued at once."""
        return self._settings.max_jobs

    def start(self, job: Job) -> None:
        """Collect a task; the next ``poll`` submits all collected ones as one array."""
        self._gathered.append(job)

    def poll(self, seconds: float) -> list[Ended]:
        """Return the tasks that ended.

        Raises:
            ConfigError: SLURM refuses the jobs although none of ours is in its queue.
        """
        deadline = time.monotonic() + seconds
        self._submit()
        while True:
            ended = self._take_dropped() + self._take_ended() + self._take_lost()
            left = deadline - time.monotonic()
            if ended or left <= 0:
                return ended
            time.sleep(min(_LOOK_SECONDS, left))

    def stop(self) -> None:
        """Cancel queued jobs and ask running ones to hand back; ``poll`` keeps asking until all are over."""
        self._stopping = True
        self._queue.refresh()

    def close(self) -> None:
        """Cancel all remaining jobs."""
        self._gathered.clear()
        self._queue.cancel(self._submitted)
        self._submitted.clear()

    def _submit(self) -> None:
        """Submit collected tasks.

        Refused ones are tried again later if other jobs of ours are in the queue: a limit of the site may have been
        reached.
        """
        while self._gathered and not self._stopping:
            batch = self._gathered[:_ARRAY_MAX]
            tasks = [SlurmTask(job.to_json(), self._threads, self._limits, self._folder) for job in batch]
            try:
                with _as_if_outside_of_jobs(), redirect_stderr(io.StringIO()), self._submitit.batch():
                    handles = [self._submitit.submit(task) for task in tasks]
            except (FailedJobError, FailedSubmissionError) as error:
                if not self._submitted:
                    raise ConfigError(f"compute.slurm: SLURM does not accept jobs: {_one_line(str(error))}") from error
                return
            del self._gathered[: len(batch)]
            now = time.monotonic()
            self._submitted |= {
                handle.job_id: _Submitted(job.key, now) for handle, job in zip(handles, batch, strict=True)
            }

    def _take_dropped(self) -> list[Ended]:
        """Return the tasks that were not submitted to SLURM before the stop."""
        if not self._stopping:
            return []
        dropped = [Ended(job.key, Outcome.INTERRUPTED, "not submitted yet") for job in self._gathered]
        self._gathered.clear()
        return dropped

    def _take_ended(self) -> list[Ended]:
        """Return the tasks whose jobs have reported how they ended."""
        with os.scandir(ended_path(self._folder, "").parent) as entries:
            told = self._submitted.keys() & {Path(entry.name).stem for entry in entries}
        for job_id in told:
            del self._submitted[job_id]
        return [Ended.from_json(ended_path(self._folder, job_id).read_text()) for job_id in sorted(told)]

    def _take_lost(self) -> list[Ended]:
        """Return the tasks whose jobs are over without a report."""
        now = time.monotonic()
        states = self._queue.states(self._submitted)
        if states is None:
            return []
        if self._stopping:
            self._ask_to_hand_back({job_id: state.name for job_id, state in states.items()})
        lost = []
        for job_id, submitted in list(self._submitted.items()):
            state = states.get(job_id)
            if state is not None and not state.is_over:
                submitted.over_since = None
            elif submitted.over_since is None:
                submitted.over_since = now
            if submitted.over_since is None or now - submitted.over_since < _GRACE_SECONDS:
                continue
            del self._submitted[job_id]
            outcome = Outcome.INTERRUPTED if self._stopping else Outcome.LOST
            detail = "SLURM no longer knows this job" if state is None else f"SLURM says {state}"
            lost.append(Ended(submitted.key, outcome, f"{detail} (job {job_id})", now - submitted.started))
        return lost

    def _ask_to_hand_back(self, states: Mapping[str, str]) -> None:
        """Ask all jobs to hand back.

        A job may start or be requeued at any moment, and one without a step yet does not receive signals: ask again.
        """
        self._queue.cancel([job_id for job_id, name in states.items() if name == "PENDING"], "--state=PENDING")
        now = time.monotonic()
        running = [job_id for job_id, name in states.items() if name == "RUNNING"]
        asked = [job_id for job_id in running if now - self._submitted[job_id].asked > _ASK_AGAIN_SECONDS]
        for job_id in asked:
            self._submitted[job_id].asked = now
        self._queue.cancel(asked, f"--signal={STOP_SIGNAL.name}")


def _limits(compute: ComputeSettings) -> Limits:
    """Return the limits of a task.

    Each process watches its own share of memory and acts sooner than SLURM, which would not give a reason.
    """
    memory = compute.slurm.memory_gb
    share = None if memory is None else int(0.95 * memory * 2**30 / max(1, compute.slurm.gpus_per_node))
    return Limits(compute.stall_minutes * 60, share, compute.checkpoint_minutes)


def sbatch_options(settings: SlurmSettings) -> dict[str, str | int | bool]:
    """Return the ``sbatch`` options for one task, without their dashes."""
    wishes: dict[str, str | int | bool | None] = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.minutes,
        "nodes": settings.nodes,
        "ntasks-per-node": max(1, settings.gpus_per_node),
        "cpus-per-task": settings.cpus_per_gpu,
        "gpus-per-node": settings.gpus_per_node or None,
        "mem": None if settings.memory_gb is None else f"{settings.memory_gb * 1024:.0f}M",
    }
    return {name: wish for name, wish in wishes.items() if wish is not None} | settings.extra


def _check(settings: SlurmSettings, options: Mapping[str, str | int | bool]) -> None:
    """Ask SLURM whether it would accept such a job, without submitting it."""
    if settings.minutes * 60 <= settings.signal_seconds:
        raise ConfigError(
            f"compute.slurm.signal_seconds: a warning {settings.signal_seconds} s before the end leaves no time to "
            f"work in {settings.minutes} minutes; lower it, or raise compute.slurm.minutes"
        )
    if shutil.which("sbatch") is None:
        raise ConfigError("compute.executor: slurm needs SLURM's commands, but sbatch is not on PATH")
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    with _as_if_outside_of_jobs():
        asked = run_slurm("sbatch", "--test-only", *flags, "--wrap=true")
    if asked.returncode != 0:
        raise ConfigError(f"compute.slurm: SLURM refuses {' '.join(flags)}: {_one_line(asked.stderr)}")


def _submitit_executor(
    settings: SlurmSettings, options: Mapping[str, str | int | bool], folder: Path
) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_python=f"{quote(sys.executable)} -P")
    executor.update_parameters(
        name="tissuebench",
        timeout_min=settings.minutes,
        nodes=settings.nodes,
        tasks_per_node=max(1, settings.gpus_per_node),
        slurm_signal_delay_s=settings.signal_seconds,
        slurm_array_parallelism=settings.max_jobs,
        # srun ignores the cores per task; and the processes of a trial end together
        slurm_srun_args=[f"--cpus-per-task={settings.cpus_per_gpu}", "--kill-on-bad-exit=1", "--wait=60"],
        slurm_additional_parameters={"requeue": True, **options},
    )
    return executor


@contextmanager
def _as_if_outside_of_jobs() -> Iterator[None]:
    """Hide ``SLURM_*`` variables, so that a runner that is itself a job does not pass its limits on to its jobs."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith("SLURM_") and name != "SLURM_CONF"}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _one_line(words: str) -> str:
    return "; ".join(line.removeprefix("sbatch: error: ").strip() for line in words.splitlines() if line.strip())
