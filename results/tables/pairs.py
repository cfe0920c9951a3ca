"""Pairwise comparison of the methods at a budget, and of each with all masks (``full``)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tissuebench.errors import DataError, unknown_name
from tissuebench.results.records.trial_result import TrialResult, method_of
from tissuebench.results.stats.intervals import estimate
from tissuebench.results.stats.multiple import holm
from tissuebench.results.stats.scored import Scored, pair, score
from tissuebench.results.tables.leaderboard import UPPER, number
from tissuebench.results.tables.panel import Panel, panels


@dataclass(frozen=True)
class PairRow:
    """The paired difference (a - b) of two methods in one metric. None where there is no number.

    Attributes:
        budget: of both methods; ``full`` appears at every budget with its own labels (``masks:all``).
        method_a, method_b: in alphabetical order.
        diff: mean over common runs of the difference of pooled scores; low, high: its 95 % interval. Below 0 where
            a is lower, which is better for an error (``metrics.lower_is_better``).
        p: two-sided p of no difference, from the distribution of the interval: below .05 exactly where it leaves out 0.
        p_holm: p after Holm adjustment over the pairs of methods of the (dataset, budget) in this metric; pairs with
            ``full`` are adjusted among themselves, as it has other labels.
        n_runs: number of common runs; if 0, there are no numbers.
    """

    dataset: str
    budget: str
    method_a: str
    method_b: str
    metric: str
    diff: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    n_runs: int


def pairs(results: Sequence[TrialResult], *, metrics: Sequence[str] = ("miou",)) -> list[PairRow]:
    """Compare all pairs of methods, by dataset, budget (in minutes), metric and methods.

    Raises:
        DataError: a dataset has no such metric, or its results are not comparable (``panel.panels``).
    """
    return [row for panel in panels(results) for row in _of_panel(panel, metrics)]


def _of_panel(panel: Panel, metrics: Sequence[str]) -> list[PairRow]:
    for metric in metrics:
        if metric not in panel.metrics:
            raise DataError(f"dataset {panel.dataset}: {unknown_name('metric', metric, panel.metrics)}")
    where = [panel.metrics.index(metric) for metric in metrics]
    budgets = defaultdict(list)
    for cell in sorted(panel.cells.values(), key=lambda cell: (cell.minutes, cell.budget)):
        budgets[cell.budget].append(cell)
    upper = {cell.method: cell for cell in budgets.get("masks:all", ()) if _is_upper(cell.method)}
    upper_scored = {method: score(cell).only(where) for method, cell in upper.items()}
    rows: list[PairRow] = []
    for budget, cells in budgets.items():
        own = {cell.method for cell in cells}
        scored = {cell.method: score(cell).only(where) for cell in cells if upper.get(cell.method) is not cell}
        scored = upper_scored | scored  # a ``full`` trained at this budget takes precedence
        compared = [
            _compare(panel.dataset, budget, (a, b), (scored[a], scored[b]), metrics)
            for a, b in itertools.combinations(sorted(scored), 2)
            if a in own or b in own
        ]
        rows += [row for of_metric in zip(*compared, strict=True) for row in _adjusted(of_metric)]
    return rows


def _is_upper(method: str) -> bool:
    return method_of(method) == UPPER


def _compare(
    dataset: str, budget: str, names: tuple[str, str], scored: tuple[Scored, Scored], metrics: Sequence[str]
) -> list[PairRow]:
    """Return one row per metric, without the Holm-adjusted p."""
    both = pair(*scored)
    diff = None if both is None else estimate(both)
    return [
        PairRow(
            dataset=dataset,
            budget=budget,
            method_a=names[0],
            method_b=names[1],
            metric=metric,
            diff=None if diff is None else number(diff.mean[j]),
            low=None if diff is None else number(diff.low[j]),
            high=None if diff is None else number(diff.high[j]),
            p=None if diff is None else number(diff.p[j]),
            p_holm=None,
            n_runs=0 if both is None else len(both.runs),
        )
        for j, metric in enumerate(metrics)
    ]


def _adjusted(rows: Sequence[PairRow]) -> list[PairRow]:
    """Return the rows of one metric and budget with p adjusted in two families: with and without ``full``."""
    with_full = [_is_upper(row.method_a) or _is_upper(row.method_b) for row in rows]
    out = list(rows)
    for family in (True, False):
        where = [i for i, full in enumerate(with_full) if full is family]
        p_values = [rows[i].p for i in where]
        adjusted = holm([float("nan") if p is None else p for p in p_values])
        for i, p in zip(where, adjusted, strict=True):
            out[i] = replace(rows[i], p_holm=number(p))
    return out
