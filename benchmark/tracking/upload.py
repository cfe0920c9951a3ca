"""Sending to W&B what is written, in processes that can be ended; never imports wandb.

They must not find the service of this process (``WANDB_SERVICE``), which would go on with what it was told. What they
print may be about the key, and is not read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a report: the server's name for it and where it is, or why it is nowhere."""

    view_id: str = ""
    url: str = ""
    error: str = ""


def is_sent(folder: Path) -> bool:
    """Whether ``wandb sync`` has marked an offline run as complete."""
    return any(folder.glob("*.wandb.synced"))


def sync(folders: Sequence[Path], cwd: Path, stall_seconds: float) -> bool:
    """``wandb sync``; whether it had to be ended, after so long without a run getting through."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "wandb", "sync", *(str(folder.relative_to(cwd)) for folder in folders)],
        cwd=cwd,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    left, deadline = len(folders), time.monotonic() + stall_seconds
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        still = sum(not is_sent(folder) for folder in folders)
        if still < left:
            left, deadline = still, time.monotonic() + stall_seconds
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return True
    return False


def save_report(definition: Path, known_id: str, seconds: float) -> Saved:
    """Have a report saved by ``tissuebench.tracking.report``, within so many seconds."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "tissuebench.tracking.report", str(definition), known_id],
        cwd=definition.parent,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
        answer: dict[str, str] = json.loads(said)
    except subprocess.TimeoutExpired:
        return Saved(error=f"no answer for {seconds:g} s")
    except ValueError:
        return Saved(error="its process exited early")
    finally:
        process.kill()
        process.communicate()
    return Saved(answer.get("id", ""), answer.get("url", ""), answer.get("error", ""))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
