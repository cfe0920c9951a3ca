"""Home folder: whether it can be written to, and whether its file system keeps what the suite builds on.

Whatever is written lies in a hidden folder of its own and is removed at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil

from tissuebench.common.files import replace_quickly
from tissuebench.common.units import size_of
from tissuebench.doctor.finding import Finding, fix, note, ok, reason
from tissuebench.doctor.subject import Subject

_ELSEWHERE = "choose another folder: --home, or TISSUEBENCH_HOME"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE, _LITTLE_SPACE = 100 * 10**6, 10 * 10**9
_NO_INODES, _LITTLE_INODES = 100, 10_000
_CHUNK, _CHUNKS = 4 * 2**20, 16
_SECONDS = 0.7
"""Time for each half of the measurement of speed; a slow disk writes less than 64 MiB in it."""
_SLOW_WRITES, _SLOW_READS = 20 * 10**6, 50 * 10**6
_TAKES_LOCK = """
import fcntl, os, sys
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""
_BUSY = 3


def place(home: Path) -> Iterator[Finding]:
    """Check that the folder can be written to, or can be created; it is not created."""
    if not os.path.lexists(home):
        above = home.parent
        if not above.is_dir():
            yield fix("home", f"{home}: neither this folder nor the one above it exists", _ELSEWHERE)
        elif not os.access(above, os.W_OK | os.X_OK):
            yield fix("home", f"{home}: does not exist, and cannot be created in {above}", _ELSEWHERE)
        else:
            advice = "the first run creates it; create it and run this again to check its disk"
            yield note("home", f"{home}: does not exist yet, on {_file_system(above)[0]}", advice)
        return
    if not home.is_dir():
        yield fix("home", f"{home}: is not a folder", _ELSEWHERE)
        return
    kind, _ = _file_system(home)
    try:
        with _scratch(home) as folder:
            (folder / "file").touch()
    except OSError as error:
        room = "free some space (see below), or " if error.errno in _FULL else "make it writable, or "
        yield fix("home", f"{home}: cannot be written to ({reason(error)}), on {kind}", room + _ELSEWHERE)
        return
    if kind in ("tmpfs", "ramfs"):
        yield note("home", f"{home}: writable, on {kind}", f"it is in memory and gone after a restart; {_ELSEWHERE}")
    else:
        yield ok("home", f"{home}: writable, on {kind}")


def space(home: Path) -> Iterator[Finding]:
    """Check the free space, and the number of files that can still be created."""
    there = home if home.is_dir() else home.parent
    if not there.is_dir():
        return
    about = os.statvfs(there)
    free, size, inodes = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize, about.f_favail
    found = f"{size_of(free)} of {size_of(size)}"
    if about.f_files:  # some file systems have no limit, and say 0
        found += f", room for {inodes} files"
    advice = f"tissuebench cache clear removes cached features; or {_ELSEWHERE}"
    if not _has_room(there):
        yield fix("free space", found, advice)
    elif free < _LITTLE_SPACE or (about.f_files and inodes < _LITTLE_INODES):
        yield note("free space", found, f"tissuebench plan show estimates what a sweep takes; {advice}")
    else:
        yield ok("free space", found)


def speed(home: Path) -> Iterator[Finding]:
    """Measure how fast a small file is written to the disk and read from it."""
    if not _usable(home):
        return
    with _scratch(home) as folder:
        try:
            written, write_speed = _write(folder / "speed")
        except OSError as error:
            if error.errno not in _FULL:
                raise
            yield fix("disk speed", f"64 MiB cannot be written ({reason(error)})", "ask for a larger quota")
            return
        read_speed = _read(folder / "speed", written)
    found = f"writes {size_of(round(write_speed))}/s, reads {size_of(round(read_speed))}/s"
    if write_speed < _SLOW_WRITES or read_speed < _SLOW_READS:
        yield note(
            "disk speed", found, "cached features and checkpoints will wait for it: use a faster disk, if there is one"
        )
    else:
        yield ok("disk speed", found)


def locks(home: Path) -> Iterator[Finding]:
    """Check that a lock on a folder, as the suite takes them, keeps another process out."""
    if not _usable(home):
        return
    advice = (
        "start only one command at a time in this folder, or have the file system mounted with locks (NFS: no nolock "
        "and no local_lock; Lustre: flock)"
    )
    with _scratch(home) as folder:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kept_out = _second_process(folder) == _BUSY
        except OSError as error:
            yield note("file locks", f"none on this file system ({reason(error)})", advice)
            return
        finally:
            os.close(handle)
        released = _second_process(folder) == 0
    kind, options = _file_system(home)
    local = [option for option in options if option == "nolock" or option in ("local_lock=all", "local_lock=flock")]
    if not kept_out:
        yield note("file locks", "two processes held the same lock at once", advice)
    elif not released:
        yield note("file locks", "a lock outlived the process that held it", advice)
    elif local:
        yield note("file locks", f"work on this machine only ({kind}, {local[0]})", advice)
    else:
        yield ok("file locks", "keep a second process out")


def replacing(home: Path) -> Iterator[Finding]:
    """Check that a file which is replaced is there all the time, whole, for those who read it."""
    if not _usable(home):
        return
    contents = (b"a" * 4096, b"b" * 8192)
    done, seen = Event(), list[str]()
    with _scratch(home) as folder:
        path = folder / "file"
        path.write_bytes(contents[0])

        def read() -> None:
            while not done.is_set():
                try:
                    if path.read_bytes() not in contents:
                        seen.append("a part of it")
                except OSError as error:
                    seen.append(reason(error))

        reader = Thread(target=read)
        reader.start()
        try:
            until = time.monotonic() + _SECONDS / 2
            for turn in range(500):
                replace_quickly(path, contents[turn % 2])
                if time.monotonic() > until:
                    break
        finally:
            done.set()
            reader.join()
    if seen:
        found = f"while a file was replaced, a reader saw: {seen[0]}"
        yield fix("replacing files", found, f"records would be lost on this file system; {_ELSEWHERE}")
    else:
        yield ok("replacing files", "at once, for readers, too")


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    folder = home / f".doctor-{uuid.uuid4().hex}"
    try:  # its name is known before it exists: nothing remains if this process is stopped in between
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _usable(home: Path) -> bool:
    """Whether there is something to test; ``place`` and ``space`` say why not."""
    return home.is_dir() and os.access(home, os.W_OK | os.X_OK) and _has_room(home)


def _has_room(folder: Path) -> bool:
    about = os.statvfs(folder)
    has_inodes = about.f_favail >= _NO_INODES or not about.f_files
    return about.f_bavail * about.f_frsize >= _NO_SPACE and has_inodes


def _file_system(folder: Path) -> tuple[str, list[str]]:
    """Return the type of the file system that a folder is on, and the options of its mount."""
    path = folder.resolve()
    mounted = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    if not mounted:
        return "an unknown file system", []
    last = max(enumerate(mounted), key=lambda each: (len(each[1].mountpoint), each[0]))[1]  # of two, the upper one
    return last.fstype, last.opts.split(",")


def _write(path: Path) -> tuple[int, float]:
    """Return the bytes that were written, and how many a second reach the disk."""
    chunk = os.urandom(_CHUNK)  # a file system may compress
    written, started = 0, time.monotonic()
    with path.open("xb", buffering=0) as file:
        for _ in range(_CHUNKS):
            written += file.write(chunk)
            os.fsync(file.fileno())
            if time.monotonic() - started > _SECONDS:
                break
    return written, written / (time.monotonic() - started)


def _read(path: Path, size: int) -> float:
    """Return how many bytes a second are read, from the disk if the system forgets its copy on request."""
    read, started = 0, time.monotonic()
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while read < size and time.monotonic() - started < _SECONDS:
            read += len(file.read(_CHUNK))
    return read / (time.monotonic() - started)


def _second_process(folder: Path) -> int:
    command = [sys.executable, "-I", "-S", "-c", _TAKES_LOCK, str(folder)]
    return subprocess.run(command, capture_output=True, timeout=3).returncode  # noqa: S603 - our own lines


SUBJECT = Subject(
    {"home": place, "free space": space, "disk speed": speed, "file locks": locks, "replacing files": replacing},
    seconds=8,
    advice="the file system may hang: try to list the folder, then ask who runs the file server",
)
