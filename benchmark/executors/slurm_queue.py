"""Queries of SLURM's queue: the state of many jobs in one call, no more often than the controller can bear."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass

_LOOK_SECONDS = 2.0
_JOBS_A_SECOND = 50
_OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
_FORMAT = "JobArrayID:48,State:24,exit_code:16"


@dataclass(frozen=True, slots=True)
class SlurmState:
    """A job's state under SLURM's name, and the exit status of its batch script as ``wait`` would return it."""

    name: str
    status: int

    @property
    def is_over(self) -> bool:
        """Whether SLURM will do nothing more for the job."""
        return self.name in _OVER

    def __str__(self) -> str:
        code, number = self.status >> 8, self.status & 0x7F
        return self.name + (f", exit {code}" if code else "") + (f", signal {number}" if number else "")


class SlurmQueue:
    """Rate-limited access to SLURM's commands: every two seconds at most, less often for hundreds of jobs."""

    def __init__(self) -> None:
        self._next_look = 0.0

    def refresh(self) -> None:
        """Allow the next query immediately."""
        self._next_look = 0.0

    def states(self, job_ids: Collection[str]) -> dict[str, SlurmState] | None:
        """Return the states of the jobs that SLURM still knows; None if it is too early to ask or SLURM does not reply.

        Finished jobs remain known for a while without any accounting (``MinJobAge``, five minutes by default).
        """
        now = time.monotonic()
        if not job_ids or now < self._next_look:
            return None
        self._next_look = now + _LOOK_SECONDS + len(job_ids) / _JOBS_A_SECOND
        bases = ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))
        asked = run_slurm("squeue", "--noheader", "--array", "--states=all", f"--jobs={bases}", f"--Format={_FORMAT}")
        if asked.returncode != 0:
            return {} if "Invalid job id" in asked.stderr else None
        rows = (line.split() for line in asked.stdout.splitlines())
        known = {row[0]: SlurmState(row[1], int(row[2])) for row in rows if len(row) == 3}
        return {job_id: state for job_id, state in known.items() if job_id in job_ids}

    def cancel(self, job_ids: Collection[str], *options: str) -> None:
        """Run ``scancel``; a job that has ended in the meantime is no error."""
        if job_ids:
            run_slurm("scancel", *options, *sorted(job_ids))


def run_slurm(*command: str) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's commands and capture its output as text."""
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
