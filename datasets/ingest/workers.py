"""Parallel map of one function over jobs; a process that dies only loses its own job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

from tissuebench.common.spawning import main_left_alone

Job = TypeVar("Job")
Result = TypeVar("Result")

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Died:
    """Result of a job whose process was killed or crashed."""

    exit_code: int | None


@dataclass(slots=True)
class _Worker(Generic[Job]):
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None


def run_each(
    function: Callable[[Job], Result], jobs: Sequence[Job], n_processes: int
) -> Iterator[tuple[Job, Result | Died]]:
    """Yield each job with its result, in the order of completion.

    With one process the jobs run in the calling process. Workers are spawned, ignore Ctrl-C, and end with the calling
    process however it ends; leaving the iteration early terminates them.

    Args:
        function: importable by name; must not raise: an exception is a bug and ends the iteration.
        jobs: picklable.
        n_processes: maximum number of processes at once.
    """
    if n_processes <= 1:
        for job in jobs:
            yield job, function(job)
        return
    waiting = list(reversed(jobs))
    workers: list[_Worker[Job]] = []
    try:
        while waiting or workers:
            while len(workers) < n_processes and sum(worker.job is None for worker in workers) < len(waiting):
                workers.append(_start(function))
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                held, worker.job = worker.job, None
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    message = Died(worker.process.exitcode)
                    if held is None:
                        raise RuntimeError(f"a worker process did not start (exit {message.exit_code})") from None
                if isinstance(message, Exception):
                    raise message
                if waiting and not isinstance(message, Died):
                    worker.job = waiting.pop()
                    with suppress(OSError):  # it died meanwhile: the next wait reports that for this job
                        worker.pipe.send(worker.job)
                else:
                    _stop(worker)
                    workers.remove(worker)
                if held is not None:
                    yield held, message
    finally:
        for worker in workers:
            _stop(worker)


def _start(function: Callable[[Job], Result]) -> _Worker[Job]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs), daemon=True)
    with main_left_alone():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker[Job]) -> None:
    worker.pipe.close()  # an idle worker then exits by itself
    if worker.job is not None:
        worker.process.terminate()
    worker.process.join(_PATIENCE_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _serve(function: Callable[[Job], Result], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that resources opened by libraries are closed
    parent = multiprocessing.parent_process()
    if parent is not None:  # a killed parent cannot notify its children
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    with suppress(EOFError, OSError):  # the other end is closed: nothing left to do
        pipe.send(None)  # ready
        while True:
            job = pipe.recv()
            try:
                result: Result | Exception = function(job)
            except Exception as error:
                result = error
            pipe.send(result)
