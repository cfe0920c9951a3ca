"""Which GPUs a scheduler gave to this process."""

from __future__ import annotations

import os

from tissuebench.errors import ConfigError


def visible_gpus() -> tuple[int, ...]:
    """Ids out of ``CUDA_VISIBLE_DEVICES``; none without it.

    Raises:
        ConfigError: they are no numbers (parts of a GPU have names): training on the CPU instead would go unnoticed.
    """
    given = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    if names := [word for word in given if not word.isdecimal()]:
        raise ConfigError(f"CUDA_VISIBLE_DEVICES: {names[0]!r} is no number; ask for whole GPUs")
    return tuple(map(int, given))
