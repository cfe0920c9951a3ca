"""Limits of cores and memory, on trees of cgroups like those that kernels and containers show."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tissuebench.common import cores
from tissuebench.common.cores import allotted_cores, allotted_memory, limits_of_cores, limits_of_memory

GB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Sixteen cores, none taken away, no job."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(cores.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GB // 4096}.__getitem__)


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Writes the cgroups of this process: its own paths, mounts by (kind, root, controllers), and files with limits."""

    def write(own, mounts, files):
        process = tmp_path / "process"
        process.mkdir()
        (process / "cgroup").write_text("".join(f"{line}\n" for line in own))
        lines = ["22 27 0:21 / /proc rw,relatime shared:12 - proc proc rw\n"]
        for folder, (kind, root, controllers) in mounts.items():
            point = tmp_path / "fs" / folder
            point.mkdir(parents=True)
            lines.append(f"31 23 0:28 {root} {point} rw,nosuid shared:9 - {kind} {kind} rw,{controllers}\n")
        (process / "mountinfo").write_text("".join(lines))
        for name, text in files.items():
            file = tmp_path / "fs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        monkeypatch.setattr(cores, "_PROCESS", process)

    return write


V2 = {"": ("cgroup2", "/", "nsdelegate")}
V1 = {"cpu": ("cgroup", "/", "cpu,cpuacct"), "memory": ("cgroup", "/", "memory"), "cpuset": ("cgroup", "/", "cpuset")}


def test_without_limits_all_cores_and_all_memory(cgroups):
    cgroups(["0::/user.slice"], V2, {"user.slice/cpu.max": "max 100000", "user.slice/memory.max": "max"})
    assert limits_of_cores() == {"machine": 16, "affinity": 16}
    assert limits_of_memory() == {"machine": 64 * GB}
    assert (allotted_cores(), allotted_memory()) == (16, 64 * GB)


def test_a_system_without_cgroups_or_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "_PROCESS", tmp_path)
    monkeypatch.delattr(cores.os, "sched_getaffinity")
    assert (allotted_cores(), allotted_memory()) == (16, 64 * GB)


@pytest.mark.parametrize(("quota", "expected"), [("250000 100000", 3), ("100000 100000", 1), ("20000 100000", 1)])
def test_a_quota_of_version_2_counts_as_the_threads_that_it_can_keep_busy(cgroups, quota, expected):
    cgroups(["0::/a.slice/b.scope"], V2, {"a.slice/b.scope/cpu.max": quota})
    assert limits_of_cores()["cgroup"] == allotted_cores() == expected


def test_the_smallest_limit_on_the_way_to_the_root_holds(cgroups):
    files = {"a/cpu.max": "400000 100000", "a/b/cpu.max": "800000 100000", "a/b/memory.max": str(8 * GB)}
    cgroups(["0::/a/b"], V2, files | {"a/memory.max": str(6 * GB), "c/cpu.max": "100000 100000"})
    assert allotted_cores() == 4  # another group's quota is not ours
    assert limits_of_memory() == {"machine": 64 * GB, "cgroup": 6 * GB}


def test_version_1_has_a_tree_for_each_controller(cgroups):
    files = {"cpu/job/cpu.cfs_quota_us": "200000", "cpu/job/cpu.cfs_period_us": "100000"}
    files |= {"memory/step/memory.limit_in_bytes": str(3 * GB), "memory/memory.limit_in_bytes": "9223372036854771712"}
    files |= {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    cgroups(["5:cpu,cpuacct:/job", "4:memory:/step", "3:cpuset:/other", "0::/"], V1, files)
    assert (allotted_cores(), allotted_memory()) == (2, 3 * GB)


def test_no_limit_in_version_1_is_no_limit(cgroups):
    cgroups(["4:memory:/step"], V1, {"memory/step/memory.limit_in_bytes": "9223372036854771712"})
    assert limits_of_memory() == {"machine": 64 * GB}


@pytest.mark.parametrize("own", ["/docker/abc", "/", "/../elsewhere"])
def test_a_container_sees_its_own_group_as_the_root(cgroups, own):
    mounts = {"": ("cgroup2", "/docker/abc" if own == "/docker/abc" else "/", "rw")}
    cgroups([f"0::{own}"], mounts, {"cpu.max": "500000 100000", "memory.max": str(2 * GB)})
    assert (allotted_cores(), allotted_memory()) == (5, 2 * GB)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({"SLURM_CPUS_ON_NODE": "12"}, 12),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "12"}, 4),
        ({"SLURM_CPUS_PER_TASK": "none", "SLURM_CPUS_ON_NODE": "12(x2)"}, 16),
        ({"SLURM_CPUS_ON_NODE": "64"}, 16),
    ],
)
def test_the_allotment_of_a_job(cgroups, monkeypatch, job, expected):
    cgroups([], {}, {})
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert allotted_cores() == 16  # variables outside a job are leftovers
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert allotted_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_of_a_real_process():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from tissuebench.common.cores import allotted_cores; print(allotted_cores())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1", done.stderr
