"""GPUs and cores of this machine, and their assignment to the slots of a sweep."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass

from tissuebench.common.cores import allotted_cores
from tissuebench.errors import ConfigError
from tissuebench.plans.compute import ComputeSettings
from tissuebench.runtime.processes import World


@dataclass(frozen=True, slots=True)
class Slot:
    """Resources that one task may use on this machine.

    Attributes:
        gpus: GPU ids as in ``CUDA_VISIBLE_DEVICES``; empty on CPUs.
        threads: threads per process.
        processes: processes per task; each has its own GPU, if there are any.
    """

    gpus: tuple[str, ...] = ()
    threads: int = 1
    processes: int = 1

    def worlds(self) -> tuple[World, ...]:
        """Return the processes of a task that runs on this machine only."""
        if self.processes == 1:
            return (World(),)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return tuple(World(rank, rank, self.processes, "127.0.0.1", port) for rank in range(self.processes))


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs in ``CUDA_VISIBLE_DEVICES``, by number or (for parts of a GPU) by UUID; empty if it is unset."""
    return tuple(word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip())


def slots_of(compute: ComputeSettings) -> list[Slot]:
    """Return the slots of this machine, dividing up its GPUs or, without GPUs, its cores.

    Raises:
        ConfigError: a trial needs more processes than its slot has GPUs, or a requested GPU does not exist.
    """
    there = _gpus_of_this_machine() if compute.gpus is None or compute.gpus else []
    gpus = there if compute.gpus is None else [str(gpu) for gpu in compute.gpus]
    missing = sorted(set(gpus) - set(there))
    if missing:
        raise ConfigError(f"compute.gpus: this machine has no GPU {missing[0]}, it has {len(there)}")
    cores = allotted_cores()
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
    """Return the ids of the usable GPUs, from ``nvidia-smi`` as querying CUDA itself would allocate GPU memory."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return list(visible_gpus())
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]
