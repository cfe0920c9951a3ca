"""A folder that appears under its name when it is complete."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tissuebench.errors import ConfigError


def require_free(folder: Path, marker: str, overwrite: bool) -> None:
    """Raise unless ``folder`` may be made.

    Args:
        folder: to be made.
        marker: a file that a folder of this kind has: others are never replaced.
        overwrite: whether one of this kind may be.

    Raises:
        ConfigError: something stands there.
    """
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise ConfigError(
            f"{folder}: already exists; use --overwrite to replace it, or choose another folder with --out"
        )
    if not (folder / marker).is_file():
        raise ConfigError(f"{folder}: has no {marker}, so it is not replaced; choose another folder with --out")


@contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """Make an empty hidden folder beside ``folder``; it takes that place when the block ends, and is gone if it fails.

    What a process that was killed has left there is removed by the next one.

    Args:
        folder: absolute.

    Raises:
        ConfigError: another process makes the same folder just now.
        OSError: it cannot be made.
    """
    work = folder.with_name(f".{folder.name}.partial")
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        _lock(handle, work, folder)
        _empty(work)
        try:
            yield work
            _replace(folder, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(handle)


def _lock(handle: int, work: Path, folder: Path) -> None:
    """The lock is the kernel's and is gone with its owner, however that ends."""
    busy = f"{folder}: another process is writing it; wait for it, or choose another folder"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(busy) from None
    except OSError:  # a file system without locks: nothing keeps others out
        return
    if not work.is_dir() or os.fstat(handle).st_ino != work.stat().st_ino:
        raise ConfigError(busy)  # it was completed after we had opened it


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _replace(folder: Path, work: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        work.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
