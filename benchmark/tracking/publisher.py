"""Publishing from the scheduler: what happens to trials is told to a separate process, whose failures do no harm."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self, cast

from tissuebench.common.hashing import Json
from tissuebench.results.tables.label_efficiency import EfficiencyRow
from tissuebench.results.tables.leaderboard import LeaderboardRow
from tissuebench.sweep.jobs import State, TaskKind
from tissuebench.tracking.about import About, about_trial
from tissuebench.tracking.parent import Message, connect_to_parent

if TYPE_CHECKING:  # seconds of imports that the child does not need
    from tissuebench.sweep.graph import SweepTask

_PROJECT = "tissuebench"
_STALL_SECONDS = 30.0
_NICENESS = 10  # lower than any training; at 19, next to busy cores, a healthy upload would look stalled
# Set by a W&B session around this one: they would give every run here its name, or add it to that session's sweep.
_NOT_PASSED_ON = frozenset(
    {"WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE"}
    | {"WANDB_NAME", "WANDB_NOTES", "WANDB_TAGS", "WANDB_DIR"}
)


class Publisher:
    """Publishes trials to W&B while they train and when they end, in one child process; a context manager.

    The child (``main`` below) reads curves and results in ``home``; it receives what happens to trials and the rows of
    the table, one JSON object per line, and answers with one line when it is closed. It may hang or die: no call here
    waits for it except ``close``, which waits at most ``seconds``. Ending it at any moment loses nothing, as
    ``runs/published.json`` lists what was written in full and the next run does the rest. It exits by itself when this
    process is gone.

    Args:
        home: folder with ``runs/``.
        project: W&B project; ``WANDB_PROJECT`` takes precedence.
        stall_seconds: how long the server may take for one run before nothing more is sent.
        is_wanted: whether the plan names W&B among the services to log to.
    """

    def __init__(
        self, home: Path, project: str = _PROJECT, stall_seconds: float = _STALL_SECONDS, is_wanted: bool = True
    ) -> None:
        self._outbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._note = ""
        self._child: subprocess.Popen[str] | None = None
        reason = "" if is_wanted else "not in 'tracking'"
        if os.environ.get("WANDB_MODE") == "disabled":
            reason = "WANDB_MODE=disabled"
        if reason:
            self._note = f"W&B is off ({reason}): nothing is logged there"
            return
        # wandb keeps folders there until it exits by itself, which the child seldom does.
        self._scratch = tempfile.TemporaryDirectory(prefix="tissuebench-wandb-", ignore_cleanup_errors=True)
        self._child = subprocess.Popen(  # noqa: S603
            [
                sys.executable,
                "-P",
                "-m",
                "tissuebench.tracking.publisher",
                str(home.absolute()),
                project,
                str(stall_seconds),
            ],
            env={**_environment(home.absolute()), "TMPDIR": self._scratch.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # not reached by Ctrl-C in the terminal, and can be killed as a group
        )
        self._feeder = threading.Thread(target=self._feed, args=(self._child,), daemon=True)
        self._feeder.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(0.0)

    def changed(self, task: SweepTask, state: State) -> None:
        """Publish a trial that trains from now on, has failed or has finished. Returns at once."""
        if self._child is None or task.job.kind is not TaskKind.TRIAL:
            return
        match state:
            case State.RUNNING | State.FAILED:
                self._tell({"do": state.value, "about": cast("Json", asdict(about_trial(task.trial)))})
            case State.DONE:
                self.trial(task.key)
            case State.ELSEWHERE:
                self._tell({"do": state.value, "trial": task.key})

    def trial(self, trial_id: str) -> None:
        """Publish a trial that has finished and is in the store. Returns at once."""
        self._tell({"do": State.DONE.value, "trial": trial_id})

    def board(
        self, rows: Sequence[LeaderboardRow], trial_ids: Sequence[str], efficiency: Sequence[EfficiencyRow] = ()
    ) -> None:
        """Publish the table over these trials, which must be comparable with each other. Returns at once.

        Trials that are finished and were not published, by this run or an earlier one, are published first.
        """
        told = {"rows": [asdict(row) for row in rows], "efficiency": [asdict(row) for row in efficiency]}
        self._tell({"do": "board", "trials": list(trial_ids), **told})

    def close(self, seconds: float) -> str:
        """Wait at most ``seconds`` for the child to finish, then end it; return a one-line note on what was published.

        After the first call there is no child, and the note stays the same.
        """
        child = self._child
        if child is None:
            return self._note
        self._child = None
        self._outbox.put(json.dumps({"do": "close"}))
        try:
            self._note = _hear(child, seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            self._scratch.cleanup()
            self._outbox.put(None)
            self._feeder.join()
            with suppress(OSError):  # lines that were not read by then
                cast("IO[str]", child.stdin).close()
            cast("IO[str]", child.stdout).close()
        return self._note

    def _tell(self, message: Mapping[str, Json]) -> None:
        if self._child is not None:
            self._outbox.put(json.dumps(message))

    def _feed(self, child: subprocess.Popen[str]) -> None:
        """Write to the pipe from a thread: it blocks when the child does not read."""
        pipe = cast("IO[str]", child.stdin)
        with suppress(OSError):
            for line in iter(self._outbox.get, None):
                pipe.write(line + "\n")
                pipe.flush()


def _hear(child: subprocess.Popen[str], seconds: float) -> str:
    answer = cast("IO[str]", child.stdout)
    ready, _, _ = select.select([answer], [], [], seconds)
    line = answer.readline().strip() if ready else ""
    if line:
        return line
    reason = "its process exited early" if ready else f"not finished within {seconds:g} s"
    return f"W&B did not confirm all runs ({reason}); nothing is lost: the next run sends the rest"


def _environment(home: Path) -> dict[str, str]:
    """Return the environment of the child.

    W&B keeps the files of tables in the user's home folder, and ``wandb sync`` silently omits them if that folder is a
    different one by then: they are kept with the runs.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    return {
        "WANDB_DATA_DIR": str(home / "runs" / "wandb" / "data"),
        "WANDB_ERROR_REPORTING": "false",
        "OMP_NUM_THREADS": "1",
        **environment,
    }


def _work(inbox: queue.SimpleQueue[Message], home: Path, project: str, stall_seconds: float) -> str:
    """Process messages, sending whenever none is waiting, and return the final note."""
    from tissuebench.tracking.tracker import Tracker  # imports wandb, which the parent does not need

    tracker = Tracker(home, project, stall_seconds)
    while True:
        message = inbox.get()
        match message["do"]:
            case State.RUNNING:
                tracker.follow(About(**message["about"]))
            case State.FAILED:
                tracker.failed(About(**message["about"]))
            case State.ELSEWHERE:
                tracker.leave(message["trial"])
            case State.DONE:
                tracker.trial(message["trial"])
            case "board":
                tracker.board(message["rows"], message["trials"], message["efficiency"])
        if inbox.empty():
            tracker.send()
        if message["do"] == "close":
            tracker.close()
            return tracker.note()


def main(home: str, project: str, stall_seconds: str) -> None:
    """Entry point of the child process of a ``Publisher``."""
    os.nice(_NICENESS)
    inbox, answer = connect_to_parent()
    try:
        note = _work(inbox, Path(home), os.environ.get("WANDB_PROJECT", project), float(stall_seconds))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        note = f"Nothing was sent to W&B ({reason}); all results are stored here"
    print(note, file=answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
