"""All ratios that are to hold before a release, in one table."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console

from tissuebench.perf import contrast, counting, gpu, loader, losses, masks, scoring
from tissuebench.perf.ratios import Ratio, show

Benchmark = Callable[[Console, bool], list[Ratio]]

BENCHMARKS: Mapping[str, Benchmark] = {
    "losses": losses.run,
    "contrast": partial(contrast.run, rounds=3),
    "masks": partial(masks.run, n_tiles=500),
    "counting": partial(counting.run, n_rounds=2),
    "scoring": partial(scoring.run, n_rounds=1),
    "loader": loader.run,
    "gpu": gpu.run,
}
"""Benchmarks by name, in sizes that take a quarter of an hour together; ``perf NAME`` runs one at its full size."""


def run(console: Console, as_json: bool, benchmarks: Mapping[str, Benchmark] = BENCHMARKS) -> list[Ratio]:
    """Run the benchmarks one after the other, and print one table; that of the GPU only if there is one.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        benchmarks: benchmarks to run, by name.
    """
    lines: list[Ratio] = []
    for name, benchmark in benchmarks.items():
        if name == "gpu" and not torch.cuda.is_available():
            lines.append(Ratio("gpu", None, note="no CUDA device"))
            continue
        found = benchmark(Console(file=io.StringIO()), True)
        lines += [replace(line, name=f"{name}: {line.name}") for line in found]
    missed = sum(line.holds is False for line in lines)
    judged = sum(line.holds is not None for line in lines)
    show(f"Ratios before a release: {judged - missed} of {judged} goals hold", lines, console, as_json)
    return lines
