"""How a worker process ends."""

from __future__ import annotations

import os
import subprocess
import sys


def test_it_leaves_no_temporary_folder_and_waits_for_no_library(tmp_path):
    script = (
        "import atexit, runpy, time; atexit.register(time.sleep, 1e6)\n"  # the first registered is called last
        "runpy.run_module('tissuebench.sweep.worker', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("ready")
    assert not list(tmp_path.iterdir())
