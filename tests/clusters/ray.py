"""A real Ray cluster of two nodes on loopback addresses, with two cores and two pretended GPUs each; token authentication is on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# Addresses of this test process alone, as Ray takes fixed ports on each; 127.0.0.1 would become that of the network card.
_BLOCK = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"
HEAD, OTHER = f"{_BLOCK}.2", f"{_BLOCK}.3"
_SECONDS = 120

# Ray reads how it authenticates when it is imported, and never again in the same process.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", os.urandom(32).hex())


@dataclass(slots=True)
class RayCluster:
    """The nodes that run, by address; ``environment`` is what they and everybody who joins were started with."""

    folder: Path
    environment: dict[str, str]
    address: str
    raylets: dict[str, psutil.Process] = field(default_factory=dict)
    orphans: list[psutil.Process] = field(default_factory=list)

    def join(self, host: str) -> None:
        """Start the node ``host``; the first one is the head."""
        place = (
            ("--head", f"--port={self.address.rpartition(':')[2]}")
            if not self.raylets
            else (f"--address={self.address}",)
        )
        more = (
            (f"--temp-dir={self.folder}/ray", "--include-dashboard=false", "--disable-usage-stats")
            if not self.raylets
            else ()
        )
        command = (str(Path(sys.executable).with_name("ray")), "start", *place, *more, f"--node-ip-address={host}")
        resources = ("--num-cpus=2", "--num-gpus=2", "--object-store-memory=100000000")
        started = subprocess.run(
            (*command, *resources), env={**os.environ, **self.environment, "TEST_NODE": host},
            capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=self.folder,
        )  # fmt: skip
        assert started.returncode == 0, started.stdout + started.stderr
        self.raylets[host] = next(
            process for process in self._processes("raylet") if f"--node_ip_address={host}" in process.cmdline()
        )

    def lose(self, host: str) -> None:
        """Kill the node's raylet; Ray's processes that run tasks on it end by themselves."""
        raylet = self.raylets.pop(host)
        self.orphans += _children(raylet)
        raylet.send_signal(signal.SIGKILL)
        raylet.wait(30)

    def stop(self) -> None:
        """End every process of the cluster: those that carry its name, and their children, who may have lost it."""
        named = self._processes()
        left = {*named, *self.orphans, *(child for process in named for child in _children(process))}
        for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 30)):
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _, still = psutil.wait_procs(left, timeout=seconds)
            left = {*still, *self._processes()}

    def _processes(self, name: str = "") -> list[psutil.Process]:
        """Ray's processes carry the cluster's folder in their environment, unless they have overwritten it with a title."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid() or name not in process.name():
                    continue
                if process.environ().get("TEST_CLUSTER") == str(self.folder):
                    found.append(process)
        return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


@contextmanager
def ray_cluster(environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """Start both nodes, stop them afterwards.

    Args:
        environment: further variables of Ray's processes, hence of all tasks.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the path of a socket has 107 bytes at most
    with socket.socket() as free:
        free.bind((HEAD, 0))
        port = free.getsockname()[1]
    settings = {
        "TEST_CLUSTER": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "GLOO_SOCKET_IFNAME": "lo",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
    cluster = RayCluster(folder, {**settings, **environment}, f"{HEAD}:{port}")
    try:
        cluster.join(HEAD)
        cluster.join(OTHER)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
