"""A real SLURM of two nodes on this machine: munge, slurmctld and two slurmd, in a folder and on ports of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.debian import missing_after_install

_TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
KillWait=5
InactiveLimit=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=10000 Gres=gpu:1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=10000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


@dataclass(frozen=True, slots=True)
class SlurmCluster:
    """Two idle nodes ``n1`` and ``n2``; ``environment`` makes SLURM's commands talk to them."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Standard output of one of SLURM's commands."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """What ``scontrol`` knows of a job."""
        return dict(
            word.split("=", 1) for word in self.run("scontrol", "show", "job", "-o", job_id).split() if "=" in word
        )

    def queued(self) -> dict[str, str]:
        """State of every job that is not over, by its id."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def tasks(self, job_id: str) -> list[int]:
        """Process ids of the tasks (not of the batch script) of a running job, the same on both nodes."""
        lines = self.run(
            "scontrol", "listpids", self.job(job_id)["JobId"], *self.job(job_id)["NodeList"].split()
        ).splitlines()
        return [
            int(pid) for pid, _, step, *_ in (line.split() for line in lines[1:]) if step != "batch" and pid != "-1"
        ]

    def start_soon(self, job_id: str) -> None:
        """End the two minutes that SLURM lets a requeued job wait; within the same second it would not be launched."""
        self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now+2seconds")

    def empty(self) -> None:
        """Cancel what is in the queue and wait until it is gone."""

        def cancelled() -> bool:
            self.run("scancel", "--user=root")  # again and again: a job that was being requeued comes back
            return not self.queued()

        _wait_for("an empty queue", cancelled, self.folder)


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Start the cluster, stop everything afterwards; skips, with the reason, where it cannot be had."""
    _need_slurm()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the path of a socket has 107 bytes at most
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = SlurmCluster(folder, {"SLURM_CONF": str(folder / "slurm.conf"), "GLOO_SOCKET_IFNAME": "lo"})
        _configure(folder)
        munge = [
            f"--{name}={folder}/munge.{name}" for name in ("socket", "log-file", "pid-file", "seed-file", "key-file")
        ]
        _start(stack, folder, "munged", "--foreground", "--force", *munge)
        _wait_for("munged", (folder / "munge.socket").exists, folder)
        config = str(folder / "slurm.conf")
        _start(stack, folder, "slurmctld", "-D", "-f", config)
        for node in ("n1", "n2"):
            _start(stack, folder, "slurmd", "-D", "-f", config, "-N", node)
        _wait_for("two idle nodes", lambda: _idle_nodes(cluster) == 2, folder)
        stack.callback(cluster.empty)
        yield cluster


def _need_slurm() -> None:
    if os.geteuid() != 0:
        pytest.skip("a SLURM of one's own needs root")
    missing = missing_after_install(_TOOLS, ("slurm-wlm", "munge"), _PATH)
    if missing:
        pytest.skip(f"no SLURM on this machine and none to be had from apt-get: {', '.join(missing)} missing")


def _configure(folder: Path) -> None:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        controller, n1, n2 = (each.getsockname()[1] for each in sockets)
    text = _CONFIG.format(host=socket.gethostname(), folder=folder, controller=controller, n1=n1, n2=n2)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("NodeName=n[1-2] Name=gpu Count=1 File=/dev/null\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (folder / "state").mkdir()
    key = folder / "munge.key-file"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)


def _start(stack: ExitStack, folder: Path, program: str, *arguments: str) -> None:
    path = shutil.which(program, path=_PATH)
    assert path is not None
    log = stack.enter_context((folder / f"{program}-{arguments[-1].rpartition('/')[2]}.log").open("wb"))
    process = subprocess.Popen((path, *arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _idle_nodes(cluster: SlurmCluster) -> int:
    done = subprocess.run(
        ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"),
        env={**os.environ, **cluster.environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.split().count("idle")


def _wait_for(what: str, holds: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            logs = "\n".join(f"{log.name}: {log.read_text()[-600:]}" for log in sorted(folder.glob("*.log")))
            raise TimeoutError(f"SLURM: no {what} within {seconds:.0f} s\n{logs}")
        time.sleep(0.1)
