"""Folders that appear under their final name only once they are complete."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tissuebench.errors import ConfigError


def require_free(folder: Path, marker: str, overwrite: bool, option: str = "--out") -> None:
    """Raise unless ``folder`` may be created.

    Args:
        folder: the folder to create.
        marker: a file that every folder of this kind contains; a folder without it is never replaced.
        overwrite: whether an existing folder of this kind may be replaced.
        option: option of the command that names another folder.

    Raises:
        ConfigError: the folder exists and may not be replaced.
    """
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise ConfigError(
            f"{folder}: already exists; use --overwrite to replace it, or choose another folder with {option}"
        )
    if not (folder / marker).is_file():
        raise ConfigError(f"{folder}: has no {marker}, so it is not replaced; choose another folder with {option}")


@contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """Create an empty hidden folder next to ``folder``; it is moved into place on success and removed on failure.

    Leftovers of a killed process are removed by the next one.

    Args:
        folder: absolute path.

    Raises:
        ConfigError: another process is writing the same folder.
        OSError: the folder cannot be created.
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
    """Lock the open ``work`` folder; the kernel releases the lock when the process ends, however that happens."""
    busy = f"{folder}: another process is writing it; wait for it, or choose another folder"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(busy) from None
    except OSError:  # no locks on this file system: other processes are not kept out
        return
    if not work.is_dir() or os.fstat(handle).st_ino != work.stat().st_ino:
        raise ConfigError(busy)  # another process completed it after we opened it


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
