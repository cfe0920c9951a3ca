"""Files that are there in full or not at all."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


def write_aside(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, flush it to the disk, and rename it into place; folders are made."""
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Wait until no other process works in ``folder``, and keep others out meanwhile.

    The lock is the kernel's and is gone with its owner, however that ends: no file is left behind.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nothing keeps others out, and nothing breaks either
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def text_written_aside(path: Path) -> Iterator[TextIO]:
    """Open a text file to write bit by bit; it gets its name when the block ends, and is gone if the block fails."""
    aside = _aside(path)
    try:
        with aside.open("x", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def replace_quickly(path: Path, data: bytes) -> None:
    """Replace a small file in one piece without waiting for the disk: for what is worthless after a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(data)
    aside.replace(path)


def _aside(path: Path) -> Path:
    """A name beside ``path`` that no other writer of the same file has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
