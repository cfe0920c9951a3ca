"""Child process of ``LiveRuns``: reads the curves of trials that train, and logs what is new.

Every run is open here and sent by W&B's own service, which also waits for a server that is away for a while. Anything
unexpected ends the process.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from queue import Empty

import wandb

from tissuebench.errors import DataError
from tissuebench.results.records.curves import CURVES_FILE
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.view.lookup import Found
from tissuebench.tracking.about import About
from tissuebench.tracking.parent import connect_to_parent
from tissuebench.tracking.wandb_run import CurveLog, lines_of, open_run

_POLL_SECONDS = 1.0
_PAUSES = 9.0  # as long as reading took: at most a tenth of the time is spent on it, however many trials train


class LiveRun:
    """Run of one trial that trains; it appears with the first values.

    Args:
        found: the trial.
        about: metadata of its run.
        project: W&B project.
        folder: folder for W&B's files.
        stall_seconds: how long the server may take.
    """

    def __init__(self, found: Found, about: About, project: str, folder: Path, stall_seconds: float) -> None:
        self._found, self._about, self._project = found, about, project
        self._folder, self._stall_seconds = folder, stall_seconds
        self._seen = (0, 0)
        self._open: tuple[wandb.Run, CurveLog] | None = None

    def update(self) -> None:
        """Log what is new if the file of curves has changed."""
        try:
            stat = (self._found.folder / CURVES_FILE).stat()
            if self._seen == (seen := (stat.st_mtime_ns, stat.st_size)):
                return
            lines = lines_of(self._found)
        except (OSError, DataError):  # not there yet, or damaged, which is told when the trial ends
            return
        self._seen = seen
        if not lines:
            return
        if self._open is None:
            run = open_run(self._about, self._project, self._folder, self._stall_seconds)
            self._open = run, CurveLog(run)
        self._open[1].add(lines)

    def end(self, exit_code: int) -> None:
        """Send the rest; raises if the server does not take it."""
        self.update()
        if self._open is not None:
            run, _ = self._open
            run.finish(exit_code)
            shutil.rmtree(Path(run.dir).parent)


def main(home: str, project: str, stall_seconds: str) -> None:
    """Entry point of the child process."""
    inbox, answer = connect_to_parent()
    folder = Path(tempfile.mkdtemp(prefix="live-"))  # in that of the publisher, who removes it
    runs: dict[str, LiveRun] = {}
    due = 0.0
    while True:
        try:
            message = inbox.get(timeout=max(0.0, due - time.monotonic()) if runs else None)
        except Empty:
            began = time.monotonic()
            for run in runs.values():
                if not inbox.empty():  # opening many runs takes minutes, in which one may end
                    break
                run.update()
            due = time.monotonic() + max(_POLL_SECONDS, _PAUSES * (time.monotonic() - began))
            continue
        if message["do"] == "follow":
            about = About(**message["about"])
            found = Found(Path(home), TaskKind.TRIAL, about.run_id)
            runs[about.run_id] = LiveRun(found, about, project, folder, float(stall_seconds))
        else:
            runs.pop(message["trial"]).end(message["exit_code"])
            print("ended", file=answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
