"""The benchmark of a GPU, on the CPU at a tiny size. No test here has a stopwatch."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from tissuebench.errors import ConfigError
from tissuebench.perf import gpu, loader
from tissuebench.perf.gpu import BareLoop, machine_of, measure
from tissuebench.runtime.precision import FP16


def test_without_a_gpu_it_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^perf-gpu: no CUDA device .*; --device cpu measures the CPU$"):
        gpu.run(Console(file=io.StringIO()), True)


def tiny(bench, steps):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", f"training.steps={steps}", "network.encoder=test_resnet")
    return next(iter(bench.trials(plan, "supervised")))


def test_blocks_of_the_trainer_and_of_the_bare_loop_alternate(bench, display, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "_BLOCK", 2)
    monkeypatch.setattr(gpu, "_BARE_STEPS", 1)
    turns, timed = [], BareLoop.seconds
    monkeypatch.setattr(BareLoop, "seconds", lambda loop, steps: turns.append(steps) or timed(loop, steps))
    whole, bare = measure(tiny(bench, 6), bench.data, machine_of("cpu"), tmp_path / "fit", display)
    assert turns == [1] * 4  # before the first step, and after each block of two
    assert whole.shape == bare.shape == (2,)  # without the first of each
    assert (whole > 0).all() and (bare > 0).all()


@pytest.mark.parametrize("precision", ["32-true", FP16])
def test_the_bare_loop_learns(bench, precision):

    bare = BareLoop(tiny(bench, 6), bench.data, replace(machine_of("cpu"), precision=precision))
    losses = []
    step = bare._method.training_step
    bare._method.training_step = lambda *arguments: losses.append(step(*arguments)) or losses[-1]
    assert bare.seconds(25) > 0
    assert losses[-1].item() < 0.9 * losses[0].item()


def test_its_table_is_of_what_was_asked_for(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(loader, "_BLOCK", 2)
    monkeypatch.setattr(gpu, "_BARE_STEPS", 1)
    monkeypatch.setattr(gpu, "open_data", lambda name, *_: asked.append(name) or bench.data)
    printed = io.StringIO()
    gpu.run(Console(file=printed), True, "cpu", "resnet18", batch_size=2, tile_px=64, rounds=1)
    (line,) = json.loads(printed.getvalue())
    assert line["value"] > 0 and line["goal"] is None
    assert line["name"].startswith("tiles/s of the whole trainer to a bare loop")
    assert asked == ["synthetic@64"]
