"""The line that tells users why a task failed."""

from __future__ import annotations

import re

import torch

from tissuebench.errors import TissueBenchError

_ASKED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
_TOTAL = re.compile(r"total capacity of ([\d.]+ \w+)")
_FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def reason_of(error: BaseException) -> str:
    """Return the reason for a failure in one line: its own words for ours, with its type for others.

    Examples:
        >>> reason_of(RuntimeError("no such kernel"))
        'RuntimeError: no such kernel'
    """
    said = " ".join(str(error).split())
    if is_out_of_gpu_memory(error):
        asked, total = (found[1] if (found := pattern.search(said)) else "" for pattern in (_ASKED, _TOTAL))
        amount = " of ".join(filter(None, (f"asked for {asked}" if asked else "", total)))
        return (
            f"out of GPU memory{f' ({amount})' if amount else ''}: lower training.batch_size (of the stage, if it has "
            "its own) or evaluation.window_px, or compute.slots if tasks share the GPU"
        )
    return said if isinstance(error, TissueBenchError) else f"{type(error).__name__}: {said}"


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether a GPU had no memory left, as torch or one of CUDA's libraries says."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)
