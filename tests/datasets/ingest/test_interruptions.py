"""Ingest survives ``kill -9`` at any moment, in bounded memory: the same command ends in the same content hash."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import tifffile

from tests.datasets.ingest.large_slides import start, whole, write_source
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.verify import verify
from tissuebench.datasets.synthetic import SyntheticConfig, write_synthetic


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """A patch of synthetic tissue, 1024 x 1024 px."""
    root = tmp_path_factory.mktemp("tissue")
    write_synthetic(root, SyntheticConfig(n_train=1, n_val=0, n_test=0, size_px=1024), lambda *_: None)
    return tifffile.imread(next(root.rglob("*.tif")))


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.parent.name))
    return found


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def killed_again_and_again(root: Path, home: Path, workers: int, moments: list[int]) -> None:
    """Start, kill -9 the command (not its workers) once so many files are written, again; no run may end before."""
    slides = home / "data" / "large" / "store.zarr.partial" / "slides"
    for moment in moments:
        process = start(root, home, workers)
        while files_below(slides) < moment:
            assert process.poll() is None, f"ended before it had written {moment} files"
            time.sleep(0.005)
        below = children(process.pid)
        process.kill()
        process.communicate()
        wait_until_gone(below)


def files_below(folder: Path) -> int:
    """How many files there are, in a folder where others write and rename: what is gone meanwhile is not counted."""
    return sum(len(files) for _, _, files in os.walk(folder))


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_kill_9_changes_nothing(tissue, tmp_path, workers):
    root = tmp_path / "source"
    write_source(root, tissue, n_slides=4, side=2048)
    undisturbed = whole(root, tmp_path / "undisturbed", workers)
    home = tmp_path / "home"
    total = files_below(undisturbed.path / "slides")
    killed_again_and_again(root, home, workers, [total * tenths // 10 for tenths in (1, 3, 5, 8)])
    finished = whole(root, home, 3 - workers)
    assert finished.content_hash == undisturbed.content_hash
    verify(finished)
    assert not [path for path in home.rglob("*") if ".partial" in path.name]


def test_two_at_once_do_not_get_in_each_others_way(tissue, tmp_path):
    root, home = tmp_path / "source", tmp_path / "home"
    write_source(root, tissue, n_slides=3, side=1024)
    both = [start(root, home, 1), start(root, home, 2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    alone = whole(root, tmp_path / "alone", 1)
    store = TileStore(home / "data" / "large" / "store.zarr")
    assert store.content_hash == alone.content_hash
    verify(store)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_says_so_and_leaves_no_process(tissue, tmp_path):
    root = tmp_path / "source"
    write_source(root, tissue, n_slides=6, side=2048)
    process = start(root, tmp_path / "home", 2)
    deadline = time.monotonic() + 60
    while len(children(process.pid)) < 3:  # two workers and the tracker of their resources
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    below = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        errors.decode().splitlines()[-1]
        == "tissuebench: interrupted; run the same command again to pick up where it left off"
    )
    assert "Traceback" not in errors.decode()
    wait_until_gone(below)


@pytest.mark.slow
def test_a_slide_of_20000_px_in_bounded_memory_and_killed_ten_times(tissue, tmp_path):
    root = tmp_path / "source"
    write_source(root, tissue, n_slides=1, side=20_000)
    process = start(root, tmp_path / "undisturbed", 1)
    started = time.monotonic()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    assert os.waitstatus_to_exitcode(status) == 0
    peak_gb = usage.ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    print(f"20,000 x 20,000 px: {seconds:.0f} s, peak {peak_gb:.2f} GB resident")
    assert peak_gb < 1.5
    undisturbed = TileStore(tmp_path / "undisturbed" / "data" / "large" / "store.zarr")
    rng = random.Random(20_000)
    moments = [rng.randint(1, files_below(undisturbed.path / "slides") - 2) for _ in range(10)]
    killed_again_and_again(root, tmp_path / "home", 1, moments)
    finished = whole(root, tmp_path / "home", 1)
    assert finished.content_hash == undisturbed.content_hash
    verify(finished)
