"""Translation of decoder exceptions for damaged files into one-line errors."""

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
"""Exceptions that decoders raise on wrong tags and bytes, since they trust the file."""


@contextmanager
def reading(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Translate what decoders raise on damaged bytes into a one-line error; ``errors`` are a library's own exceptions.

    Raises:
        DataError: the file cannot be read as ``kind`` ("a TIFF slide").
    """
    try:
        yield
    except _BROKEN + errors as error:
        raise DataError(f"{path}: cannot be read as {kind} ({reason(error)}); replace the file") from None


def reason(error: Exception) -> str:
    """Return an error's message in one line, or its type if the message is empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__
