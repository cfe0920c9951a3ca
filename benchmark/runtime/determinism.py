"""Deterministic algorithms: the same bits from the same inputs on the same kind of device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def prepare_process() -> None:
    """Set what cuBLAS reads when it is first used, and needs for deterministic products; call it before using a GPU."""
    os.environ.setdefault(_CUBLAS, ":4096:8")


def is_deterministic(setting: bool | None, device: torch.device) -> bool:
    """Return whether to use deterministic algorithms: as set, by default on CPUs only."""
    return device.type == "cpu" if setting is None else setting


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Use deterministic algorithms in the block, or those that the process uses otherwise.

    An operation that has no deterministic implementation raises a ``RuntimeError`` that names it.
    """
    if not enabled:
        yield
        return
    was_on, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    tried, memory = torch.backends.cudnn.benchmark, cast("Any", torch.utils.deterministic)
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it chooses kernels by their speed at that moment
    memory.fill_uninitialized_memory = False  # costs time, and no code reads what it has not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=warned)
        torch.backends.cudnn.benchmark = tried
        memory.fill_uninitialized_memory = filled
