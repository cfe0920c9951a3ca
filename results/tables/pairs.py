"""Pairwise comparison of the methods at a budget, and of each with all masks (``full``)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tissuebench.errors import DataError, unknown_name
from tissuebench.results.metrics import Floats
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.stats.bootstrap import N_BOOT, Scored, holm, score, wilcoxon
from tissuebench.results.stats.draws import Draws
from tissuebench.results.tables.leaderboard import UPPER, number
from tissuebench.results.tables.panel import Cell, Panel, panels
from tissuebench.results.tables.patient_scores import POOLED_ONLY, own_scores


@dataclass(frozen=True)
class PairRow:
    """The paired difference (a - b) of two methods in one metric. None where there is no number.

    Attributes:
        budget: of both methods; ``full`` appears at every budget with its own labels (``masks:all``).
        method_a, method_b: in alphabetical order.
        diff: mean over common runs of the difference of pooled scores; low, high: its 95 % interval. Below 0 where
            a is lower, which is better for an error (``metrics.lower_is_better``).
        p: Wilcoxon signed-rank test over patients, as in ``against_reference.Comparison``; None for balanced accuracy.
        p_holm: p after Holm adjustment over all pairs of the (dataset, budget) in this metric.
        n_runs: number of common (replicate, seed); if 0, there are no numbers.
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


def pairs(results: Sequence[TrialResult], *, metrics: Sequence[str] = ("miou",), n_boot: int = N_BOOT) -> list[PairRow]:
    """Compare all pairs of methods, by dataset, budget (in minutes), metric and methods.

    Raises:
        DataError: a dataset has no such metric, or its results are not comparable (``panel.panels``).
    """
    return [row for panel in panels(results) for row in _of_panel(panel, metrics, n_boot)]


@dataclass(frozen=True, eq=False)
class _Arm:
    """One method in the requested metrics: pooled scores under the draws, and scores of each patient (P, R, M)."""

    scored: Scored
    own: Floats


def _of_panel(panel: Panel, metrics: Sequence[str], n_boot: int) -> list[PairRow]:
    for metric in metrics:
        if metric not in panel.metrics:
            raise DataError(f"dataset {panel.dataset}: {unknown_name('metric', metric, panel.metrics)}")
    draws = Draws(panel.dataset, len(panel.patients), n_boot)
    budgets = defaultdict(list)
    for cell in sorted(panel.cells.values(), key=lambda cell: (cell.minutes, cell.budget)):
        budgets[cell.budget].append(cell)
    upper = {cell.method: cell for cell in budgets.get("masks:all", ()) if cell.method.partition("[")[0] == UPPER}
    upper_arms = {method: _arm(panel, cell, draws, metrics) for method, cell in upper.items()}
    rows: list[PairRow] = []
    for budget, cells in budgets.items():
        own = {cell.method: cell for cell in cells}
        arms = {name: _arm(panel, cell, draws, metrics) for name, cell in own.items() if upper.get(name) is not cell}
        arms = upper_arms | arms  # a ``full`` trained at this budget takes precedence
        compared = [
            _compare(panel.dataset, budget, (a, b), (arms[a], arms[b]), draws, metrics)
            for a, b in itertools.combinations(sorted(arms), 2)
            if a in own or b in own
        ]
        rows += [row for of_metric in zip(*compared, strict=True) for row in _adjusted(of_metric)]
    return rows


def _arm(panel: Panel, cell: Cell, draws: Draws, metrics: Sequence[str]) -> _Arm:
    where = [panel.metrics.index(metric) for metric in metrics]
    scored = score(cell, draws.patients)
    scored = replace(scored, point=scored.point[:, where], draws=scored.draws[..., where])
    return _Arm(scored, own_scores(cell, cell.runs)[..., where])


def _compare(
    dataset: str, budget: str, names: tuple[str, str], arms: tuple[_Arm, _Arm], draws: Draws, metrics: Sequence[str]
) -> list[PairRow]:
    """Return one row per metric, without the Holm-adjusted p."""
    a, b = arms
    diff = draws.difference(a.scored, b.scored)
    common = sorted(set(a.scored.runs) & set(b.scored.runs))
    left, right = (arm.own[:, [arm.scored.runs.index(run) for run in common]] for arm in arms)
    own = (left - right).mean(1) if common else None
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
            p=None if own is None or metric in POOLED_ONLY else number(wilcoxon(own[:, j])),
            p_holm=None,
            n_runs=len(common),
        )
        for j, metric in enumerate(metrics)
    ]


def _adjusted(rows: Sequence[PairRow]) -> list[PairRow]:
    """Return the rows of one metric and budget with Holm-adjusted p."""
    adjusted = holm([float("nan") if row.p is None else row.p for row in rows])
    return [replace(row, p_holm=number(p)) for row, p in zip(rows, adjusted, strict=True)]
