"""Upload to W&B of what is written, in processes that can be ended; never imports wandb.

These processes must not find the W&B service of this process (``WANDB_SERVICE``), which would continue with its own
settings. Their output may contain the key and is not read.
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
    """Result of saving a report: its id on the server and its URL, or an error."""

    view_id: str = ""
    url: str = ""
    error: str = ""


def is_sent(folder: Path) -> bool:
    """Return whether ``wandb sync`` has marked an offline run as complete."""
    return any(folder.glob("*.wandb.synced"))


def sync(folders: Sequence[Path], cwd: Path, stall_seconds: float) -> bool:
    """Run ``wandb sync``; return whether it had to be ended because no run got through for ``stall_seconds``."""
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
    """Save a report with ``tissuebench.tracking.report`` in a process that is ended after ``seconds``."""
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
