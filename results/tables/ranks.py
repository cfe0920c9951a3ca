"""Average ranks of the methods at a budget: over datasets, or over the patients of a single one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from tissuebench.errors import DataError, unknown_name
from tissuebench.results.metrics import Floats, lower_is_better
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.stats.bootstrap import N_BOOT, PERCENTILES, run_means, score
from tissuebench.results.stats.draws import Draws
from tissuebench.results.stats.rank_tests import FriedmanForm, alike, critical_difference, friedman, nemenyi, ranks
from tissuebench.results.tables.panel import Panel, panels
from tissuebench.results.tables.patient_scores import POOLED_ONLY, common_runs, own_scores


@dataclass(frozen=True)
class RankRow:
    """Average rank of one method.

    Attributes:
        rank: average over blocks, 1 is best; low, high: 95 % interval over bootstrap draws of runs and patients, each
            ranked anew. It is conditional on these datasets, which are not resampled. None with a single patient.
    """

    method: str
    rank: float
    low: float | None
    high: float | None
    n_blocks: int


@dataclass(frozen=True)
class Ranking:
    """Ranking of the methods that all blocks have at a budget.

    Attributes:
        blocks: unit of ranking: pooled scores of datasets, or, for a single dataset, its patients' own scores averaged
            over the runs, which tests these runs and their patients only.
        rows: methods by rank.
        friedman_statistic, friedman_p: test that all methods rank alike; None with a single block.
        critical_difference: Nemenyi's critical difference of two average ranks at 5 %.
        groups: maximal sets of two or more methods, adjacent in rank, within the critical difference.
        p_nemenyi: pairwise p values, in the order of the rows.
    """

    metric: str
    budget: str
    blocks: Literal["datasets", "patients"]
    datasets: tuple[str, ...]
    n_blocks: int
    rows: tuple[RankRow, ...]
    friedman_statistic: float | None
    friedman_p: float | None
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]
    p_nemenyi: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Scores of k methods on N blocks, (N, k), and ranks averaged over blocks under each draw, (B, k)."""

    scores: Floats
    draws: Floats


def rankings(
    results: Sequence[TrialResult],
    *,
    metric: str = "miou",
    n_boot: int = N_BOOT,
    form: FriedmanForm = FriedmanForm.CHI_SQUARED,
) -> list[Ranking]:
    """Return one ranking per budget, by minutes, for budgets with two or more methods to rank.

    With several datasets, budgets that only one of them has are left out. Scores use the runs that all methods of a
    dataset and budget have in common, or all runs if there are none in common.

    Raises:
        DataError: a dataset has no such metric, the metric is undefined for single patients, or results of one dataset
            are not comparable (``panel.panels``).
    """
    found = panels(results)
    for panel in found:
        if metric not in panel.metrics:
            raise DataError(f"dataset {panel.dataset}: {unknown_name('metric', metric, panel.metrics)}")
    if len(found) == 1 and metric in POOLED_ONLY:
        raise DataError(f"dataset {found[0].dataset}: a patient has no {metric} by themselves to rank")
    minutes = {budget: cell.minutes for panel in found for (_, budget), cell in panel.cells.items()}
    out = []
    for budget in sorted(minutes, key=lambda name: (minutes[name], name)):
        here = [panel for panel in found if any(at == budget for _, at in panel.cells)]
        methods = sorted(set.intersection(*({m for m, at in panel.cells if at == budget} for panel in here)))
        if len(methods) < 2 or len(here) < min(len(found), 2):
            continue
        if len(found) == 1:
            blocks = _patients(here[0], budget, methods, metric, n_boot)
        else:
            blocks = _datasets(here, budget, methods, metric, n_boot)
        if len(blocks.scores):
            ranking = rank(methods, blocks.scores, metric, form)
            ends = _ends(blocks.draws, len(here) == 1 and len(here[0].patients) < 2)
            out.append(
                replace(
                    ranking,
                    budget=budget,
                    blocks="patients" if len(found) == 1 else "datasets",
                    datasets=tuple(panel.dataset for panel in here),
                    rows=tuple(_with_ends(row, ends.get(methods.index(row.method))) for row in ranking.rows),
                )
            )
    return out


def rank(methods: Sequence[str], scores: Floats, metric: str, form: FriedmanForm = FriedmanForm.CHI_SQUARED) -> Ranking:
    """Rank methods by scores (N, k) on N blocks, without intervals; ``metric`` determines whether lower is better."""
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
        blocks="datasets",
        datasets=(),
        n_blocks=n,
        rows=tuple(RankRow(methods[j], float(average[j]), None, None, n) for j in order),
        friedman_statistic=None if np.isnan(test.statistic) else test.statistic,
        friedman_p=None if np.isnan(test.p) else test.p,
        critical_difference=apart,
        groups=tuple(tuple(names[first : last + 1]) for first, last in alike(average[order], apart)),
        p_nemenyi=tuple(map(tuple, nemenyi(average[order], n).tolist())),
    )


def _datasets(here: Sequence[Panel], budget: str, methods: Sequence[str], metric: str, n_boot: int) -> _Blocks:
    """Blocks of one dataset each; datasets in which a method has no score are left out.

    Scores are centred on the mean over methods: ranks stay the same, and the draws are stretched for the differences.
    """
    points, under = [], []
    for panel in here:
        draws = Draws(panel.dataset, len(panel.patients), n_boot)
        cells = [panel.cells[method, budget] for method in methods]
        j = [panel.metrics.index(metric)]
        scored = [score(cell, draws.patients) for cell in cells]
        scored = [replace(one, point=one.point[:, j], draws=one.draws[..., j]) for one in scored]
        if common := common_runs(cells):
            scored = [one.at(common) for one in scored]
            point, drawn = (np.mean(part, 0) for part in ([s.point for s in scored], [s.draws for s in scored]))
            scored = [replace(s, point=s.point - point, draws=s.draws - drawn, span=(-1.0, 1.0)) for s in scored]
        means = [run_means(one, draws.runs(one.runs)) for one in scored]
        points.append([mean[0] for mean, _ in means])
        under.append(np.stack([drawn[:, 0] for _, drawn in means], -1))
    values = np.array(points)
    kept = _complete(values)
    if not kept.any():
        return _Blocks(values[kept], np.empty((0, len(methods))))
    ranked = [_ranks_there(drawn, metric) for drawn, keep in zip(under, kept, strict=True) if keep]
    return _Blocks(values[kept], np.mean(ranked, 0))


def _patients(panel: Panel, budget: str, methods: Sequence[str], metric: str, n_boot: int) -> _Blocks:
    """Blocks of one patient each; patients for whom a method has no score are left out."""
    cells = [panel.cells[method, budget] for method in methods]
    common = common_runs(cells)
    j = panel.metrics.index(metric)
    own = [own_scores(cell, common or cell.runs)[..., j] for cell in cells]
    scores = np.stack([one.mean(1) for one in own], -1)
    kept = _complete(scores)
    draws = Draws(panel.dataset, len(panel.patients), n_boot)
    weights = draws.patients[:, kept]
    total = weights.sum(1)
    under = [_under(draws, common or cell.runs, one[kept]) for cell, one in zip(cells, own, strict=True)]
    summed = np.stack([(_rank_of(i, under, metric) * weights).sum(1) for i in range(len(methods))], -1)
    averages = np.divide(summed, total[:, None], out=np.full_like(summed, np.nan), where=total[:, None] > 0)
    return _Blocks(scores[kept], averages)


def _under(draws: Draws, runs: Sequence[tuple[int, int]], own: Floats) -> Floats:
    """Own scores (P, R) averaged under the draws of runs, (B, P); rounded so that equal scores stay equal."""
    weights = draws.runs(runs)
    return np.asarray(np.round(weights @ own.T / weights.sum(1, keepdims=True), 12), dtype=np.float64)


def _rank_of(i: int, under: Sequence[Floats], metric: str) -> Floats:
    """Rank of the i-th method, (B, P), computed without holding all methods' ranks in memory."""
    sign = 1.0 if lower_is_better(metric) else -1.0
    out = np.ones(under[i].shape)
    for j, other in enumerate(under):
        if j != i:
            out += 0.5 + 0.5 * np.sign(sign * (under[i] - other))
    return out


def _ranks_there(drawn: Floats, metric: str) -> Floats:
    """Ranks under each draw, (B, k); nan in draws in which a method has no score."""
    ranked = ranks(np.round(drawn, 12), lower_is_better=lower_is_better(metric))
    return np.where(_complete(drawn)[:, None], ranked, np.nan)


def _complete(scores: Floats) -> npt.NDArray[np.bool_]:
    """Mask of the rows in which every method has a score."""
    return np.asarray(~np.isnan(scores).any(1), dtype=np.bool_)


def _ends(draws: Floats, single: bool) -> dict[int, tuple[float, float]]:
    """Interval of each method's average rank: percentiles over the draws."""
    there = draws[_complete(draws)]
    if single or not len(there):
        return {}
    low, high = np.percentile(there, PERCENTILES, axis=0)
    return {j: (float(low[j]), float(high[j])) for j in range(draws.shape[1])}


def _with_ends(row: RankRow, ends: tuple[float, float] | None) -> RankRow:
    """Return the row with an interval that contains its rank: ranks of the noisier draws lie nearer to the middle."""
    if ends is None:
        return row
    return replace(row, low=min(ends[0], row.rank), high=max(ends[1], row.rank))
