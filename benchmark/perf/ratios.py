"""Ratios within one run: sources are measured in turn, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Rates = NDArray[np.float64]
"""Items per second, one value per round, (R,)."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One ratio.

    Attributes:
        name: what is compared.
        value: the ratio; None if it was not measured.
        goal: minimum value; None for a line that is shown without a verdict.
        note: spread, or why it was not measured.
        at_most: the goal is the maximum value instead.
    """

    name: str
    value: float | None
    goal: float | None = None
    note: str = ""
    at_most: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None without a goal or a value."""
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def in_turn(
    sources: Mapping[str, Callable[[Sequence[int]], object]],
    n_items: int,
    batch: int,
    seconds: float,
    rounds: int,
    seed: int,
) -> dict[str, Rates]:
    """Return items per second of each source, round by round.

    Each source first reads every item once, so that all of them find a warm page cache.

    Args:
        sources: by name; each is called with the numbers of the items to read.
        n_items: number of items.
        batch: items per call.
        seconds: seconds for all rounds together.
        rounds: number of rounds; in each, every source has its turn, in random order.
        seed: seed of the orders.
    """
    rng = np.random.default_rng(seed)
    calls = [range(start, min(start + batch, n_items)) for start in range(0, n_items, batch)]
    for read in sources.values():
        for call in calls:
            read(call)
    turn = seconds / (rounds * len(sources))
    names = list(sources)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for first in rng.integers(len(calls), size=rounds).tolist():
        for index in rng.permutation(len(names)).tolist():
            read, done, number = sources[names[index]], 0, first
            began = time.perf_counter()
            while done == 0 or time.perf_counter() - began < turn:
                call = calls[number % len(calls)]
                read(call)
                done, number = done + len(call), number + 1
            rates[names[index]].append(done / (time.perf_counter() - began))
    return {name: np.array(values) for name, values in rates.items()}


def ratio(name: str, of: Rates, to: Rates, goal: float | None = None, at_most: bool = False) -> Ratio:
    """Return the median over rounds of ``of / to``; the note gives the quartiles and both medians."""
    ratios = of / to
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    spread = f"{low:.3g} to {high:.3g}; {np.median(of):,.0f}/s against {np.median(to):,.0f}/s"
    return Ratio(name, middle, goal, spread, at_most)


def show(title: str, lines: Sequence[Ratio], console: Console, as_json: bool) -> None:
    """Print a table, or JSON and nothing else: a list of ``{name, value, goal, holds}``."""
    if as_json:
        listed = [{"name": line.name, "value": line.value, "goal": line.goal, "holds": line.holds} for line in lines]
        console.file.write(json.dumps(listed, indent=1) + "\n")
        return
    table = Table(title=title, title_justify="left")
    table.add_column("ratio")
    table.add_column("value", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    table.add_column("middle half of the rounds; medians", style="dim")
    verdicts = {True: "[green]holds[/]", False: "[bold red]MISSED[/]", None: ""}
    for line in lines:
        value = "" if line.value is None else f"{line.value:.3g}"
        goal = "" if line.goal is None else f"{'≤' if line.at_most else '≥'} {line.goal:g}"
        table.add_row(line.name, value, goal, verdicts[line.holds], line.note)
    console.print(table)
