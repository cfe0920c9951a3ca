"""Cores and memory that this process may use: of the machine, its affinity, its cgroup and the scheduler."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROCESS = Path("/proc/self")


def allotted_cores() -> int:
    """Return the cores that this process may keep busy: the smallest of ``limits_of_cores``, at least 1."""
    return max(1, min(limits_of_cores().values()))


def allotted_memory() -> int:
    """Return the bytes that this process and its children may use: the smallest of ``limits_of_memory``."""
    return min(limits_of_memory().values())


def limits_of_cores() -> dict[str, int]:
    """Return the number of cores by who limits it: ``machine``, ``affinity``, ``cgroup``, ``SLURM``.

    Only those that set a limit are there. A quota of 2.5 cores counts as 3, as it can keep three threads busy.
    """
    limits = {"machine": os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        limits["affinity"] = len(os.sched_getaffinity(0))
    if quotas := [quota for folder in _cgroups("cpu") if (quota := _quota(folder)) is not None]:
        limits["cgroup"] = max(1, math.ceil(min(quotas)))
    if (of_job := _of_slurm_job()) is not None:
        limits["SLURM"] = of_job
    return limits


def limits_of_memory() -> dict[str, int]:
    """Return the bytes of memory by who limits it: ``machine`` and, if it sets a limit, ``cgroup``."""
    limits = {"machine": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    files = [folder / name for folder in _cgroups("memory") for name in ("memory.max", "memory.limit_in_bytes")]
    found = [number for file in files if (number := _number(_read(file))) is not None]
    if found and min(found) < limits["machine"]:  # version 1 says "no limit" as a huge number
        limits["cgroup"] = min(found)
    return limits


def _of_slurm_job() -> int | None:
    if "SLURM_JOB_ID" not in os.environ:
        return None
    named = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    return next((int(value) for value in named if value.isdecimal() and int(value)), None)


def _quota(cgroup: Path) -> float | None:
    """Return the cores that a cgroup may use on average; None without a limit."""
    if limit := _read(cgroup / "cpu.max").split():  # version 2: "250000 100000", or "max 100000"
        quota, period = _number(limit[0]), _number(limit[-1])
    else:
        quota, period = (_number(_read(cgroup / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return quota / period if quota and period else None


def _cgroups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups, in version 2 and in ``controller`` of version 1, and of all above.

    A container may see its own cgroup as the root of the file system of cgroups.
    """
    own: dict[str, str] = {}
    for line in _read(_PROCESS / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            own["cgroup" if controllers else "cgroup2"] = path
    for line in _read(_PROCESS / "mountinfo").splitlines():
        mount, _, about = line.partition(" - ")
        root, point = mount.split()[3:5]
        kind, _, options = about.split(maxsplit=2)
        if kind in own and (kind == "cgroup2" or controller in options.split(",")):
            group = Path(own[kind])
            below = group.relative_to(root) if group.is_relative_to(root) else Path()
            yield from (Path(point, *below.parts[:depth]) for depth in range(len(below.parts) + 1))


def _number(text: str) -> int | None:
    """Return a number of at least 0; None for ``max``, ``-1`` and nothing."""
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
