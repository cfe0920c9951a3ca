"""GPUs and cores of this machine, and how they are dealt out to the tasks of a sweep."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass

from tissuebench.errors import ConfigError
from tissuebench.plans.compute import ComputeSettings
from tissuebench.runtime.processes import World


@dataclass(frozen=True, slots=True)
class Slot:
    """What one task may use on this machine.

    Attributes:
        gpus: its GPUs, as ``CUDA_VISIBLE_DEVICES`` names them; none on CPUs.
        threads: of each process.
        processes: of a task; each has a GPU of its own, if there are any.
    """

    gpus: tuple[str, ...] = ()
    threads: int = 1
    processes: int = 1

    def worlds(self) -> tuple[World, ...]:
        """The processes of a task that runs on this machine alone."""
        if self.processes == 1:
            return (World(),)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return tuple(World(rank, rank, self.processes, "127.0.0.1", port) for rank in range(self.processes))


def visible_gpus() -> tuple[str, ...]:
    """Those that ``CUDA_VISIBLE_DEVICES`` names, by number or (parts of a GPU) by UUID; none without it."""
    return tuple(word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip())


def slots_of(compute: ComputeSettings) -> list[Slot]:
    """The slots of this machine: GPUs dealt out, or cores.

    Raises:
        ConfigError: more processes of a trial than its slot has GPUs, or GPUs that do not exist.
    """
    there = _gpus_of_this_machine() if compute.gpus is None or compute.gpus else []
    gpus = there if compute.gpus is None else [str(gpu) for gpu in compute.gpus]
    missing = sorted(set(gpus) - set(there))
    if missing:
        raise ConfigError(f"compute.gpus: this machine has no GPU {missing[0]}, it has {len(there)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = compute.processes
    if not gpus:
        threads, processes = compute.threads or 1, processes or 1
        n_slots = compute.slots or max(1, cores // (threads * processes))
        return [Slot((), threads, processes)] * n_slots
    n_slots = compute.slots or max(1, len(gpus) // (processes or 1))
    hands = [tuple(gpus[place::n_slots]) or (gpus[place % len(gpus)],) for place in range(n_slots)]
    if processes and processes > min(map(len, hands)):
        raise ConfigError(
            f"compute.processes: {processes} processes per trial need as many GPUs in each slot; {len(gpus)} GPUs in "
            f"{n_slots} slots are fewer"
        )
    threads = compute.threads or max(1, cores // max(n_slots, len(gpus)))
    return [Slot(hand[: processes or len(hand)], threads, processes or len(hand)) for hand in hands]


def _gpus_of_this_machine() -> list[str]:
    """Ids that ``CUDA_VISIBLE_DEVICES`` leaves; asked of the driver's tool, as CUDA itself would take memory."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return list(visible_gpus())
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]
