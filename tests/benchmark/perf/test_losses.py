"""The benchmark of the losses: it times losses that agree, and the table of all benchmarks says which it was."""

import io
import json

import pytest
import torch
from rich.console import Console

from tissuebench.perf import losses, release
from tissuebench.perf.ratios import Ratio


@pytest.mark.parametrize("n_dependent", [2, 4])
def test_plain_losses_are_the_same_loss(n_dependent):
    logits = torch.randn(8, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, (ours, plain) in losses.losses(n_dependent).items():
        found, gradients = [], []
        for loss in (ours, plain):
            own = logits.clone().requires_grad_()
            found.append(loss(own))
            gradients.append(torch.autograd.grad(found[-1].mean(), own)[0])
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6, msg=name)
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6, msg=name)


def test_what_is_printed(capsys):
    out = io.StringIO()
    lines = losses.run(Console(file=out), as_json=True, rounds=2, tile_px=16)
    capsys.readouterr()
    told = json.loads(out.getvalue())
    assert [line["name"] for line in told] == [line.name for line in lines]
    assert len(lines) == 6 and all(line.goal == losses.GOAL and line.value > 0 for line in lines)


def test_one_table_of_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def measured(console, as_json):
        console.print("not to be seen")
        return [Ratio("quick", 2.0, 1.0), Ratio("slow", 0.5, 1.0), Ratio("shown", 3.0)]

    out = io.StringIO()
    lines = release.run(Console(file=out, width=160), False, {"mine": measured, "gpu": measured})
    assert [line.name for line in lines] == ["mine: quick", "mine: slow", "mine: shown", "gpu"]
    assert "1 of 2 goals hold" in out.getvalue() and "no CUDA device" in out.getvalue()
    assert "MISSED" in out.getvalue() and "not to be seen" not in out.getvalue()


def test_every_benchmark_of_the_table_can_be_run_alone():
    from tissuebench.cli.perf import perf

    assert set(release.BENCHMARKS) <= set(perf.commands)
