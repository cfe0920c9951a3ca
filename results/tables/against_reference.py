"""Comparison of all cells of a dataset with one of them, for example with all masks (``full`` at ``masks:all``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tissuebench.errors import DataError, unknown_name
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.stats.intervals import estimate
from tissuebench.results.stats.multiple import holm
from tissuebench.results.stats.scored import pair, score
from tissuebench.results.tables.leaderboard import UPPER, number
from tissuebench.results.tables.panel import Panel, panels


@dataclass(frozen=True)
class Comparison:
    """One paired difference (this cell - reference) of one metric. None where there is no number.

    Attributes:
        diff: mean over common runs of the difference of pooled scores; low, high: its 95 % interval.
        p: two-sided p of no difference, from the distribution of the interval: below .05 exactly where it leaves out 0.
        p_holm: p after Holm adjustment over the cells at this budget, in this metric.
        n_runs: number of common runs; if 0, there are no numbers.
    """

    dataset: str
    method: str
    budget: str
    reference: str
    reference_budget: str
    metric: str
    diff: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    n_runs: int


def compare(
    results: Sequence[TrialResult],
    *,
    reference: str = UPPER,
    reference_budget: str = "masks:all",
) -> list[Comparison]:
    """Compare all cells with the reference of their dataset, by dataset, method, budget and metric.

    Raises:
        DataError: a dataset has no or several results of the reference, or its results are not comparable.
    """
    return [row for panel in panels(results) for row in _of_panel(panel, (reference, reference_budget))]


def _cell(panel: Panel, reference: tuple[str, str]) -> tuple[str, str]:
    """Return the cell of this name, or the only one at its budget with this name plus settings in brackets."""
    found = [(method, budget) for method, budget in panel.cells if (method.partition("[")[0], budget) == reference]
    if reference in panel.cells:
        return reference
    if len(found) == 1:
        return found[0]
    name, budget = reference
    elsewhere = sorted({b for method, b in panel.cells if name in (method, method.partition("[")[0])})
    if elsewhere and budget not in elsewhere:
        raise DataError(
            f"dataset {panel.dataset}: {name} has no results at {budget}, but at {', '.join(elsewhere)}: "
            f"use --budget {elsewhere[0]}"
        )
    known = [f"{method} at {budget}" for method, budget in panel.cells]
    raise DataError(f"dataset {panel.dataset}: {unknown_name('reference', ' at '.join(reference), known)}")


def _of_panel(panel: Panel, reference: tuple[str, str]) -> list[Comparison]:
    reference = _cell(panel, reference)
    against = score(panel.cells[reference])
    rows: list[Comparison] = []
    for key, cell in panel.cells.items():
        if key == reference:
            continue
        both = pair(score(cell), against)
        diff = None if both is None else estimate(both)
        rows += [
            Comparison(
                dataset=panel.dataset,
                method=key[0],
                budget=key[1],
                reference=reference[0],
                reference_budget=reference[1],
                metric=metric,
                diff=None if diff is None else number(diff.mean[j]),
                low=None if diff is None else number(diff.low[j]),
                high=None if diff is None else number(diff.high[j]),
                p=None if diff is None else number(diff.p[j]),
                p_holm=None,
                n_runs=0 if both is None else len(both.runs),
            )
            for j, metric in enumerate(panel.metrics)
        ]
    families = defaultdict(list)
    for i, row in enumerate(rows):
        families[row.budget, row.metric].append(i)
    for where in families.values():
        raw = [rows[i].p for i in where]
        adjusted = holm([float("nan") if p is None else p for p in raw])
        for i, p in zip(where, adjusted, strict=True):
            rows[i] = replace(rows[i], p_holm=number(p))
    return rows
