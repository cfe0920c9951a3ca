"""Interface between the runner and an executor."""

from __future__ import annotations

from typing import Protocol

from tissuebench.sweep.jobs import Ended, Job


class Executor(Protocol):
    """Runs tasks somewhere. Artefacts travel through the shared folder ``home``, never through the executor.

    An executor is created with ``(compute: ComputeSettings, home: Path)`` and used by one thread.
    """

    @property
    def capacity(self) -> int:
        """Maximum number of tasks that may be started and not yet ended."""
        ...

    def start(self, job: Job) -> None:
        """Start a task; returns at once.

        Raises:
            TissueBenchError: the executor cannot be used at all (no such partition, cluster gone).
        """
        ...

    def poll(self, seconds: float) -> list[Ended]:
        """Return the tasks that ended since the last call; waits up to ``seconds`` for the first."""
        ...

    def stop(self) -> None:
        """Ask every running task to checkpoint and hand back; the following ``poll`` calls report how they ended."""
        ...

    def close(self) -> None:
        """End all remaining tasks and release all resources."""
        ...
