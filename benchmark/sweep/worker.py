"""Worker process: ``python -P -m tissuebench.sweep.worker``. It serves one slot and stays warm from task to task.

Jobs arrive on standard input, one per line; their outcomes are written to standard output, one per line. Anything
printed goes to the log of the task. SIGTERM and SIGUSR1 ask for a checkpoint and for the task back. When standard input
closes, the process that started the worker is gone, and the worker hands back as well.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

from tissuebench.runtime.memory import exempt_imports
from tissuebench.sweep.jobs import Ended, Job, Outcome
from tissuebench.sweep.supervisor import LEAVES, READY, STAYS

_IDLE_LOG = os.devnull
_TIDY_SECONDS = 5.0


def serve() -> int:
    """Run jobs until there are no more; return nonzero if this is a further process of a trial and has failed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    _send_output_to(Path(_IDLE_LOG))
    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: asked_to_stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, which then asks
    jobs: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs, asked_to_stop), daemon=True).start()
    started = time.perf_counter()

    from tissuebench.sweep.session import Session  # seconds of imports, paid once per slot

    exempt_imports()
    session = Session(asked_to_stop)
    _answer(answers, f"{READY} {time.perf_counter() - started:.3f}")
    while line := jobs.get():
        job = Job.from_json(line)
        began = time.perf_counter()
        folder = session.folder(job)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _send_output_to(folder / session.log_name)
            outcome, detail = session.run(job)
        except OSError as error:  # not even a log can be written
            outcome, detail = Outcome.FAILED, f"{type(error).__name__}: {error}"
        except BaseException as error:
            traceback.print_exc()
            outcome, detail = Outcome.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            _send_output_to(Path(_IDLE_LOG))
        leaves = asked_to_stop.is_set() or session.is_spoilt
        ended = Ended(job.key, outcome, detail, time.perf_counter() - began)
        _answer(answers, f"{LEAVES if leaves else STAYS} {ended.to_json()}")
        if leaves:
            return int(outcome is Outcome.FAILED and session.is_beside)
    return 0


def _listen(jobs: SimpleQueue[str], asked_to_stop: threading.Event) -> None:
    with suppress(ValueError):
        for line in sys.stdin:
            jobs.put(line)
    asked_to_stop.set()
    jobs.put("")


def _answer(answers: TextIO, line: str) -> None:
    with suppress(BrokenPipeError):  # the parent is gone; stored results remain stored
        answers.write(line + "\n")
        answers.flush()


def _send_output_to(path: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


if __name__ == "__main__":
    code = serve()
    # Let libraries remove their temporary folders, without waiting for one that hangs or for threads of a method.
    tidy = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    tidy.start()
    tidy.join(_TIDY_SECONDS)
    os._exit(code)
