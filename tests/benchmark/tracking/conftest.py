"""Connects a test to the stand-in for the W&B server."""

from __future__ import annotations

import pytest

from tests.benchmark.tracking.published import KEY


@pytest.fixture
def connect(monkeypatch):
    """A function that makes a server the one that W&B talks to from now on."""

    def use(url: str, key: str = KEY) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", key)

    return use
