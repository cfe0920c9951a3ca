"""Methods of another package, known to this process and to workers; and an executor of small limits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tissuebench.executors.local import LocalExecutor
from tissuebench.methods.api import registry
from tissuebench.plans.compute import ComputeSettings

PLUGIN = Path(__file__).resolve().parents[2] / "plugin"


@pytest.fixture
def plugin(monkeypatch):
    """The methods of ``tests/plugin``, found by their entry points."""
    known = registry.all_methods()  # those of the package stay registered when this test is over
    monkeypatch.setattr(registry, "_registered", known)
    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
    assert "staged" in registry.all_methods()
    yield sys.modules["tissuebench_staged"]


@pytest.fixture
def local(bench, monkeypatch):
    """Makes local executors."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def make(home=None, **settings):
        return LocalExecutor(ComputeSettings(**{"slots": 2, **settings}), home or bench.home)

    return make
