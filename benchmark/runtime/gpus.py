"""Which GPUs a scheduler gave to this process."""

from __future__ import annotations

import os


def visible_gpus() -> tuple[str, ...]:
    """Those that ``CUDA_VISIBLE_DEVICES`` names, by number or (parts of a GPU) by UUID; none without it."""
    return tuple(word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip())
