"""Live runs: curves of trials on W&B while they train, sent by a process that can be ended at any moment.

What it sends is a preview of what is on disk. When a trial ends, its run is written offline as a whole and sent over
the same lines of history, so that nothing is lost if this process hangs, dies or is ended, and nothing is doubled.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, cast

from tissuebench.common.hashing import Json
from tissuebench.tracking.about import About


class LiveRuns:
    """Runs of trials that train, in one child process, ``tissuebench.tracking.live_process``.

    After its first failure, or ``close``, nothing is shown live any more, and no method does anything.

    Args:
        home: folder with ``runs/``.
        project: W&B project.
        stall_seconds: how long the server may take for one run.
    """

    def __init__(self, home: Path, project: str, stall_seconds: float) -> None:
        self._command = [sys.executable, "-P", "-m", "tissuebench.tracking.live_process", str(home.absolute())]
        self._command += [project, str(stall_seconds)]
        self._stall_seconds = stall_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._shown: set[str] = set()
        self._is_closed = False

    def follow(self, about: About) -> None:
        """Show a trial from its first values on."""
        if self._is_closed or about.run_id in self._shown:
            return
        if self._child is None:
            self._child = subprocess.Popen(  # noqa: S603
                self._command,
                env={name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # can be killed as a group
            )
        self._shown.add(about.run_id)
        self._tell({"do": "follow", "about": cast("Json", asdict(about))})

    def end(self, trial_id: str, exit_code: int) -> None:
        """End a trial's run; once this returns nothing more is sent to it. Waits at most ``stall_seconds``."""
        if trial_id not in self._shown:
            return
        self._shown.remove(trial_id)
        self._tell({"do": "end", "trial": trial_id, "exit_code": exit_code})
        if self._child is None:
            return
        answer = cast("IO[bytes]", self._child.stdout)
        ready, _, _ = select.select([answer], [], [], self._stall_seconds)
        if not ready or not answer.readline():
            self.close()

    def close(self) -> None:
        """End the process; runs that have not ended stay as they are on the server."""
        self._is_closed = True
        self._shown.clear()
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(OSError):  # what it did not read
            child.communicate()

    def _tell(self, message: Mapping[str, Json]) -> None:
        if self._child is None:
            return
        pipe = cast("IO[bytes]", self._child.stdin)
        try:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except OSError:
            self.close()
