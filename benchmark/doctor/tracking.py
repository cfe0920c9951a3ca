"""Weights & Biases, as a sweep would use it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tissuebench.doctor.finding import Finding, note, ok
from tissuebench.doctor.subject import Subject

_NAME = "Weights & Biases"


def tracking(_: Path) -> Iterator[Finding]:
    """Check that runs can be sent; the key is used by nobody but its library, and never shown."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        os.environ["WANDB_CACHE_DIR"] = folder  # it writes a log
        from tissuebench.tracking.reach import why_offline

        why = why_offline()
    if not why:
        yield ok(_NAME, "a key is configured, and the server answers")
    elif why.startswith("WANDB_MODE="):
        yield ok(_NAME, f"nothing is sent: {why}")
    else:
        yield note(_NAME, why, "optional: without it, runs wait in runs/wandb for 'wandb sync'; see docs/wandb.md")


SUBJECT = Subject({_NAME: tracking}, seconds=10, advice="optional: WANDB_MODE=offline keeps runs in runs/wandb")
