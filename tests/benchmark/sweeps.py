"""Small sweeps that run in the test's own process."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from rich.console import Console

from tissuebench.executors.inline import InlineExecutor
from tissuebench.methods.api.registry import register
from tissuebench.methods.supervised import Supervised
from tissuebench.plans.compute import ComputeSettings
from tissuebench.sweep.graph import Graph, build_graph
from tissuebench.sweep.runner import Runner, RunSummary
from tissuebench.sweep.state.record import write_sweep
from tissuebench.sweep.view.live import SweepDisplay

TINY_PLAN = {
    "budgets": ["masks:2p", "masks:3p"],
    "seeds": [0, 1],
    "network": {
        "encoder": "resnet18",
        "weights": "none",
        "encoder_mode": "finetune",
        "decoder": "fpn",
        "decoder_channels": 32,
    },
    "training": {"steps": 6, "batch_size": 2},
}
"""Trains in seconds: random weights, narrow decoder, a few steps on the tiny data set."""


@register
class Breaking(Supervised):
    name = "breaking_in_a_test"
    summary = "raises unless told otherwise"
    is_mended = False

    def training_step(self, batch, batch_idx):
        if not type(self).is_mended:
            raise RuntimeError("no [luck]")
        return super().training_step(batch, batch_idx)


def run_inline(graph, home, **options) -> RunSummary:
    compute = ComputeSettings(executor="inline")
    with Path(os.devnull).open("w") as nowhere:
        display = SweepDisplay(Console(file=nowhere), graph)
        with display, closing(InlineExecutor(compute, home)) as executor:
            return Runner(graph, executor, display, 0, **options).run()


def ended_sweep(bench) -> Graph:
    """A sweep that ended in the home of ``bench``: one trial is done, one failed."""
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=2")
    graph = build_graph(bench.trials(plan, "supervised", "breaking_in_a_test"), bench.data, bench.home)
    write_sweep(bench.home, graph, "tiny on tiny")
    run_inline(graph, bench.home)
    return graph
