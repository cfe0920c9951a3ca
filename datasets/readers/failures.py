"""What a damaged file makes the decoders raise, and the one line it becomes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tissuebench.errors import DataError

_BROKEN: tuple[type[Exception], ...] = (
    OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, AssertionError, MemoryError, RuntimeError,
    struct.error,
)  # fmt: skip
"""Decoders trust the file: wrong tags and bytes come out as any of these."""


@contextmanager
def reading(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what decoders raise on damaged bytes into one line; ``errors`` are a library's own.

    Raises:
        DataError: the file cannot be read as ``kind`` ("a TIFF slide").
    """
    try:
        yield
    except _BROKEN + errors as error:
        raise DataError(f"{path}: cannot be read as {kind} ({reason(error)}); replace the file") from None


def reason(error: Exception) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
