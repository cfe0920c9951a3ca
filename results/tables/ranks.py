"""Average ranks of the methods at a budget over datasets, from five datasets on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tissuebench.errors import DataError, unknown_name
from tissuebench.results.metrics import Floats, lower_is_better
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.stats.rank_tests import FriedmanForm, alike, critical_difference, friedman, nemenyi, ranks
from tissuebench.results.stats.scored import common_runs, score
from tissuebench.results.tables.panel import Panel, panels

LEAST_DATASETS = 5
"""Fewer can hardly tell methods apart: with four, the critical difference of three methods is 1.7 of 2 ranks."""


@dataclass(frozen=True)
class RankRow:
    """Average rank of one method over datasets; 1 is best."""

    method: str
    rank: float


@dataclass(frozen=True)
class Ranking:
    """Ranking of the methods that all datasets have at a budget.

    Attributes:
        datasets: the blocks.
        rows: methods by rank.
        friedman_statistic, friedman_p: test that all methods rank alike.
        critical_difference: Nemenyi's critical difference of two average ranks at 5 %.
        groups: maximal sets of two or more methods, adjacent in rank, within the critical difference.
        p_nemenyi: pairwise p values, in the order of the rows.
    """

    metric: str
    budget: str
    datasets: tuple[str, ...]
    rows: tuple[RankRow, ...]
    friedman_statistic: float
    friedman_p: float
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]
    p_nemenyi: tuple[tuple[float, ...], ...]


def rankings(
    results: Sequence[TrialResult], *, metric: str = "miou", form: FriedmanForm = FriedmanForm.CHI_SQUARED
) -> list[Ranking]:
    """Return one ranking per budget, by minutes, for budgets that two or more methods have on five or more datasets.

    Scores use the runs that all methods of a dataset and budget have in common, or all runs if there are none in
    common. Datasets in which a method has no score are left out.

    Raises:
        DataError: a dataset has no such metric, or results of one dataset are not comparable (``panel.panels``).
    """
    found = panels(results)
    if len(found) < LEAST_DATASETS:
        return []
    for panel in found:
        if metric not in panel.metrics:
            raise DataError(f"dataset {panel.dataset}: {unknown_name('metric', metric, panel.metrics)}")
    minutes = {budget: cell.minutes for panel in found for (_, budget), cell in panel.cells.items()}
    out = []
    for budget in sorted(minutes, key=lambda name: (minutes[name], name)):
        here = [panel for panel in found if any(at == budget for _, at in panel.cells)]
        methods = sorted(set.intersection(*({m for m, at in panel.cells if at == budget} for panel in here)))
        if len(methods) < 2:
            continue
        scores = np.array([_scores(panel, budget, methods, metric) for panel in here])
        kept = ~np.isnan(scores).any(1)
        if kept.sum() < LEAST_DATASETS:
            continue
        names = tuple(panel.dataset for panel, keep in zip(here, kept, strict=True) if keep)
        out.append(replace(rank(methods, scores[kept], metric, form), budget=budget, datasets=names))
    return out


def rank(methods: Sequence[str], scores: Floats, metric: str, form: FriedmanForm = FriedmanForm.CHI_SQUARED) -> Ranking:
    """Rank methods by scores (N, k) on N blocks; ``metric`` determines whether lower is better."""
    ranked = ranks(scores, lower_is_better=lower_is_better(metric))
    average = ranked.mean(0)
    order = sorted(range(len(methods)), key=lambda j: (round(average[j], 9), methods[j]))
    n = len(scores)
    test = friedman(ranked, form)
    apart = critical_difference(len(methods), n)
    names = [methods[j] for j in order]
    return Ranking(
        metric=metric,
        budget="",
        datasets=(),
        rows=tuple(RankRow(methods[j], float(average[j])) for j in order),
        friedman_statistic=test.statistic,
        friedman_p=test.p,
        critical_difference=apart,
        groups=tuple(tuple(names[first : last + 1]) for first, last in alike(average[order], apart)),
        p_nemenyi=tuple(map(tuple, nemenyi(average[order], n).tolist())),
    )


def _scores(panel: Panel, budget: str, methods: Sequence[str], metric: str) -> list[float]:
    cells = [panel.cells[method, budget] for method in methods]
    runs = common_runs([cell.runs for cell in cells])
    where = [panel.metrics.index(metric)]
    scored = [score(cell).only(where) for cell in cells]
    return [float((one.at(runs) if runs else one).mean[0]) for one in scored]
