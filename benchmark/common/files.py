"""Atomic file writes: a file is either complete or absent."""

from __future__ import annotations

import fcntl
import gzip
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO


def write_aside(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically and flush it to disk; parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _to_disk(path.parent)  # the rename itself


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``, waiting until no other process holds it.

    The kernel owns the lock and releases it when the process ends, however that happens; no lock file is left behind.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # no locks on this file system: others are not kept out, but nothing breaks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def text_written_aside(path: Path) -> Iterator[TextIO]:
    """Open a text file for incremental writing; it appears at ``path`` on success and is discarded on failure.

    With the suffix ``.gz`` it is compressed; the same text always gives the same bytes.
    """
    aside = _aside(path)
    try:
        with aside.open("xb") as raw:
            packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.suffix == ".gz" else raw
            with TextIOWrapper(packed, encoding="utf-8", newline="") as file:
                yield file
        _to_disk(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def replace_quickly(path: Path, data: bytes) -> None:
    """Replace a small file atomically without waiting for the disk, for content that may be lost in a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(data)
    aside.replace(path)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(path: Path) -> Path:
    """Return a temporary path next to ``path`` that no other writer of the same file uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
