"""Sizes for people to read."""

from __future__ import annotations


def size_of(n_bytes: int) -> str:
    """Format a number of bytes: ``1.23 GB``.

    Examples:
        >>> size_of(1_230_000)
        '1.23 MB'
    """
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if n_bytes >= length:
            return f"{n_bytes / length:.3g} {unit}"
    return f"{n_bytes / 1000:.3g} kB"
