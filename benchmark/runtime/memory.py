"""Garbage collection and memory of a process that runs one task after another."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress


def exempt_imports() -> None:
    """Exempt all objects that are alive from garbage collection, for a process that has just imported what it needs.

    Modules live as long as the process: half a million objects, which every full collection would look at again for a
    quarter of a second.
    """
    gc.collect()
    gc.freeze()


def return_freed_memory() -> None:
    """Collect garbage and return freed memory to the operating system.

    glibc keeps freed blocks of up to 32 MiB, the size of activations and gradients on a CPU: a process that trains one
    network after another would otherwise grow by gigabytes of unused memory.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # C library without malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
