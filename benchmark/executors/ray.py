"""Executor that runs the tasks of a sweep as tasks of an existing Ray cluster.

A task runs the same supervisor and worker process as with every other executor: Ray only finds it a node, GPUs and
cores. Ray does not repeat tasks (the runner does, and counts), and transfers only how a task ended. If the runner
is killed, or the head of the cluster is gone for a minute (Ray then ends all processes of the cluster, including the
runner), tasks end, their workers notice and hand back, and the next run picks up from their checkpoints.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, TaskCancelledError

from tissuebench.errors import ConfigError
from tissuebench.plans.compute import ComputeSettings
from tissuebench.runtime.gpus import Slot, visible_gpus
from tissuebench.sweep.jobs import Ended, Job, Outcome
from tissuebench.sweep.supervisor import Limits, run_supervised

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 40.0
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


@dataclass(frozen=True, slots=True)
class _Task:
    """A task submitted to Ray: its start (s of the monotonic clock), and the reference to its result."""

    key: str
    started: float
    reference: Any


class RayExecutor:
    """Runs tasks on the cluster at ``compute.ray.address``.

    Raises:
        ConfigError: there is no cluster, or it refuses this process.
    """

    def __init__(self, compute: ComputeSettings, home: Path) -> None:
        self._settings = compute.ray
        _connect(self._settings.address)
        self._processes = max(1, self._settings.gpus)
        memory = None if compute.memory_gb is None else int(compute.memory_gb * 2**30)
        self._limits = Limits(compute.stall_minutes * 60, memory, compute.checkpoint_minutes)
        self._threads = compute.threads or self._settings.cpus
        self._task = ray.remote(
            max_retries=0,
            retry_exceptions=False,
            num_cpus=self._settings.cpus * self._processes,
            num_gpus=self._settings.gpus,
            resources=self._settings.resources,
        )(_run_task)
        self._tasks: list[_Task] = []
        self._stopping = False

    @property
    def capacity(self) -> int:
        """Tasks that may be submitted to Ray at once; it queues those that do not fit."""
        return self._settings.max_tasks

    def start(self, job: Job) -> None:
        """Submit a task to Ray."""
        reference = self._task.options(name=job.title).remote(
            job.to_json(), self._threads, self._processes, self._limits
        )
        self._tasks.append(_Task(job.key, time.monotonic(), reference))

    def poll(self, seconds: float) -> list[Ended]:
        """Return the tasks that ended; Ray reports nodes and processes that died.

        Raises:
            ConfigError: the connection to the cluster is lost.
        """
        if not self._tasks:
            time.sleep(seconds)
            return []
        if not ray.is_initialized():
            raise ConfigError(f"compute.ray.address: the Ray cluster at {self._settings.address!r} is gone")
        references = [task.reference for task in self._tasks]
        ready, _ = ray.wait(references, num_returns=1, timeout=seconds)
        if ready:  # and all others that ended in the meantime
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        ended = [task for task in self._tasks if task.reference in ready]
        self._tasks = [task for task in self._tasks if task.reference not in ready]
        return [self._end_of(task) for task in ended]

    def stop(self) -> None:
        """Cancel queued tasks, and ask running ones to checkpoint and hand back."""
        self._stopping = True
        _cancel(self._tasks)

    def close(self) -> None:
        """End the remaining tasks and leave the cluster; a worker whose task is gone hands back by itself."""
        _cancel(self._tasks)
        self._tasks.clear()
        ray.shutdown()

    def _end_of(self, task: _Task) -> Ended:
        seconds = time.monotonic() - task.started
        try:
            told: str = ray.get(task.reference)
            return Ended.from_json(told)
        except TaskCancelledError:
            return Ended(task.key, Outcome.INTERRUPTED, "cancelled", seconds)
        except RayError as error:
            outcome = Outcome.INTERRUPTED if self._stopping else Outcome.LOST
            return Ended(task.key, outcome, f"Ray says {type(error).__name__}: {_first_line(error)}", seconds)


def _run_task(task: str, threads: int, processes: int, limits: Limits) -> str:
    """Run one task under supervision on the Ray node; cancelling the Ray task asks for a checkpoint."""
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))  # Ray's way of interrupting a task
    try:
        slot = Slot(visible_gpus(), threads, processes)
        return run_supervised(Job.from_json(task), slot, limits, lambda: bool(asked)).to_json()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _connect(address: str) -> None:
    """Join the cluster once another process could: Ray's own attempts may last for minutes or end this process."""
    host, _, port = address.rpartition(":")
    hint = (
        "start one with `ray start`; if it uses a token, set RAY_AUTH_MODE and RAY_AUTH_TOKEN for this process as well"
    )
    try:
        if host and port.isdecimal() and "/" not in host:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        subprocess.run(  # noqa: S603
            (sys.executable, "-P", "-c", _PROBE, address), timeout=_ANSWER_SECONDS, check=True, capture_output=True
        )
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"compute.ray.address: {address!r} answers, but not as a Ray cluster; {hint}") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ConfigError(f"compute.ray.address: no Ray cluster at {address!r}: {words}; {hint}") from error
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(
            f"compute.ray.address: no Ray cluster at {address!r}: {_first_line(error)}; {hint}"
        ) from error


def _cancel(tasks: Sequence[_Task]) -> None:
    if ray.is_initialized():
        for task in reversed(tasks):  # waiting ones first: else one starts where a running one has handed back
            ray.cancel(task.reference, force=False, recursive=False)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
