"""Debian packages that tests need beside Python's: installed where that is possible, one test process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def missing_after_install(tools: Sequence[str], packages: Sequence[str], path: str | None = None) -> list[str]:
    """Which of these programs cannot be had, after ``apt-get`` was asked for the packages if any was missing."""

    def missing() -> list[str]:
        return [tool for tool in tools if shutil.which(tool, path=path) is None]

    if missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        with (Path(tempfile.gettempdir()) / "tissuebench-apt.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if missing():
                quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
                for command in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
                    subprocess.run(
                        ("apt-get", "-qq", *command), env=quiet, capture_output=True, timeout=600, check=False
                    )
    return missing()
