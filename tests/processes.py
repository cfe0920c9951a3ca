"""Modules of the tests that a test starts as programs, some of which fork into several connected processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

from tissuebench.runtime.processes import World, connected

CPU = torch.device("cpu")
_ROOT = Path(__file__).resolve().parents[1]


def output_of(module, *arguments, **environment):
    """What a module of the tests prints as a program; its failure fails the test."""
    told = {**os.environ, "PYTHONPATH": str(_ROOT), **environment}
    command = [sys.executable, "-P", "-m", module, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=told, timeout=240)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout


def start_script(module, *arguments):
    """Run a module of the tests that calls ``run_processes``; a failure of any process fails the test."""
    output_of(module, *arguments, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")


def run_processes(size, run):
    """Call ``run(world)`` in ``size`` processes over gloo, and end this one: with 1 if any of them failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(size):
        if child := os.fork():
            children.append(child)
            continue
        failed = 1
        threading.Thread(target=_end_with_parent, daemon=True).start()
        try:
            os.environ.update(World(rank, rank, size, port=port).environment())
            world = World.from_environment()
            with connected(world, CPU):
                run(world)
            failed = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(failed)
    ended = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(ended))


def _end_with_parent():
    """A test that gives up leaves no process behind that waits for another."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
