"""Processor and memory, as far as this process may use them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from tissuebench.common.cores import allotted_cores, allotted_memory, limits_of_cores, limits_of_memory
from tissuebench.common.units import size_of
from tissuebench.doctor.finding import Finding, note, ok
from tissuebench.doctor.subject import Subject
from tissuebench.runtime.environment import processor

_LITTLE_MEMORY = 4 * 10**9
_LITTLE_SHARED_MEMORY = 10**9
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - not written to


def cores(_: Path) -> Iterator[Finding]:
    """Tell the processor, its cores, and how many of them this process may use."""
    limits, allotted = limits_of_cores(), allotted_cores()
    found = f"{processor()}: {allotted} of {limits['machine']} cores"
    if allotted == limits["machine"]:
        yield ok("cores", found)
    else:
        yield note(
            "cores",
            f"{found} ({_said(limits)})",
            "to use more, ask for more: --cpus-per-task (SLURM), --cpus (docker), taskset",
        )


def memory(_: Path) -> Iterator[Finding]:
    """Tell how much memory this process may use, and how much is free."""
    limits, allotted = limits_of_memory(), allotted_memory()
    found = f"{size_of(allotted)}, {size_of(min(allotted, psutil.virtual_memory().available))} free on the machine"
    if "cgroup" in limits:
        found += f"; the machine has {size_of(limits['machine'])}, the cgroup's limit is lower"
    if allotted < _LITTLE_MEMORY:
        yield note("memory", found, "run one trial at a time: --set compute.slots=1, with a small training.batch_size")
    else:
        yield ok("memory", found)


def shared_memory(_: Path) -> Iterator[Finding]:
    """Check the size of the memory through which loader workers pass tiles, 64 MB in a container by default."""
    if not _SHARED_MEMORY.is_dir():
        return
    size = shutil.disk_usage(_SHARED_MEMORY).total
    if size < _LITTLE_SHARED_MEMORY:
        yield note(
            "shared memory",
            f"{size_of(size)} in {_SHARED_MEMORY}: loader workers may die of a bus error",
            "start the container with --shm-size=8g or --ipc=host",
        )
    else:
        yield ok("shared memory", size_of(size))


def _said(limits: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {limit}" for name, limit in limits.items() if name != "machine")


SUBJECT = Subject(
    {"cores": cores, "memory": memory, "shared memory": shared_memory},
    seconds=5,
    advice="none needed: runs do not depend on it",
)
