"""Cores and memory, all of them and a part."""

from __future__ import annotations

import shutil

from tissuebench.doctor import hardware
from tissuebench.doctor.finding import State

GB = 10**9


def with_limits(monkeypatch, cores, memory):
    monkeypatch.setattr(hardware, "limits_of_cores", lambda: cores)
    monkeypatch.setattr(hardware, "allotted_cores", lambda: min(cores.values()))
    monkeypatch.setattr(hardware, "limits_of_memory", lambda: memory)
    monkeypatch.setattr(hardware, "allotted_memory", lambda: min(memory.values()))


def test_the_whole_machine(monkeypatch):
    with_limits(monkeypatch, {"machine": 8, "affinity": 8}, {"machine": 32 * GB})
    (cores,), (memory,) = hardware.cores(None), hardware.memory(None)
    assert cores.state is memory.state is State.OK
    assert cores.found.endswith(": 8 of 8 cores")
    assert memory.found.startswith("32 GB, ")


def test_a_part_of_it_says_who_limits_it(monkeypatch):
    with_limits(monkeypatch, {"machine": 64, "affinity": 16, "SLURM": 4}, {"machine": 256 * GB, "cgroup": 3 * GB})
    (cores,), (memory,) = hardware.cores(None), hardware.memory(None)
    assert cores.state is memory.state is State.NOTE
    assert cores.found.endswith(": 4 of 64 cores (affinity 16, SLURM 4)")
    assert memory.found.startswith("3 GB, ")
    assert "the machine has 256 GB" in memory.found
    assert "compute.slots=1" in memory.advice


def test_shared_memory_of_a_container(monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda path: usage._replace(total=64 * 2**20))
    (found,) = hardware.shared_memory(None)
    assert found.state is State.NOTE
    assert "67.1 MB" in found.found
    assert "--shm-size" in found.advice
