"""Comparison of all cells of a dataset with one of them, for example with all masks (``full`` at ``masks:all``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tissuebench.errors import DataError, unknown_name
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.stats.bootstrap import N_BOOT, holm, score, wilcoxon
from tissuebench.results.stats.draws import Draws
from tissuebench.results.tables.leaderboard import UPPER, number
from tissuebench.results.tables.panel import Panel, panels
from tissuebench.results.tables.patient_scores import POOLED_ONLY, common_runs, own_differences


@dataclass(frozen=True)
class Comparison:
    """One paired difference (this cell - reference) of one metric. None where there is no number.

    Attributes:
        diff: mean over common runs of the difference of pooled scores; low, high: its 95 % interval.
        p: Wilcoxon signed-rank test over patients, of each patient's own score averaged over the common runs; a
            patient without a score on either side is left out. None for balanced accuracy, which is undefined for a
            single patient.
        p_holm: p after Holm adjustment over all cells of the dataset compared with the reference in this metric.
        n_runs: number of common (replicate, seed); if 0, there are no numbers.
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
    n_boot: int = N_BOOT,
) -> list[Comparison]:
    """Compare all cells with the reference of their dataset, by dataset, method, budget and metric.

    Raises:
        DataError: a dataset has no or several results of the reference, or its results are not comparable.
    """
    return [row for panel in panels(results) for row in _of_panel(panel, (reference, reference_budget), n_boot)]


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


def _of_panel(panel: Panel, reference: tuple[str, str], n_boot: int) -> list[Comparison]:
    reference = _cell(panel, reference)
    draws = Draws(panel.dataset, len(panel.patients), n_boot)
    against = panel.cells[reference]
    against_scored = score(against, draws.patients)
    rows: list[Comparison] = []
    for key, cell in panel.cells.items():
        if key == reference:
            continue
        common = common_runs([cell, against])
        diff = draws.difference(score(cell, draws.patients), against_scored)
        per_patient = own_differences(cell, against, common)
        for j, metric in enumerate(panel.metrics):
            p = None if metric in POOLED_ONLY else number(wilcoxon(per_patient[:, j]))
            rows.append(
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
                    p=p,
                    p_holm=None,
                    n_runs=len(common),
                )
            )
    for metric in panel.metrics:
        where = [i for i, row in enumerate(rows) if row.metric == metric]
        raw = [rows[i].p for i in where]
        adjusted = holm([float("nan") if p is None else p for p in raw])
        for i, p in zip(where, adjusted, strict=True):
            rows[i] = replace(rows[i], p_holm=number(p))
    return rows
