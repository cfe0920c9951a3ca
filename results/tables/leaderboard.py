"""The leaderboard: one row per (dataset, method, budget, metric)."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tissuebench.results.metrics import PIXEL_METRICS, lower_is_better
from tissuebench.results.records.pseudo_mask_quality import COVERAGE, MIOU
from tissuebench.results.records.result_store import Failure
from tissuebench.results.records.trial_result import TEST, TrialResult, method_of, part_of
from tissuebench.results.stats.intervals import Estimate, estimate
from tissuebench.results.stats.multiple import among_best
from tissuebench.results.stats.scored import Scored, pair, score
from tissuebench.results.tables.compute_cost import ComputeRow, compute_rows
from tissuebench.results.tables.label_efficiency import Curve, EfficiencyRow, efficiency
from tissuebench.results.tables.mixed_hardware import notes_of_precision
from tissuebench.results.tables.panel import Cell, Panel, panels
from tissuebench.results.tables.pseudo_masks import PseudoRow, pseudo_rows

LOWER, UPPER = "supervised", "full"  # masks of the budget; all masks


@dataclass(frozen=True)
class LeaderboardRow:
    """One row of the leaderboard: a score of one method at one budget. None where there is no number.

    Attributes:
        minutes: annotator minutes of the budget, mean over its trials.
        metric: metric on the test part; ``pseudo_miou/<layer>`` and ``pseudo_coverage/<layer>`` are diagnostics on
            training tiles: only the mean of a ``PseudoRow``.
        mean: mean over runs of the score pooled over all patients; low, high: its 95 % interval.
        n_seeds: seeds per draw, the smallest number if uneven; 0 in a gap.
        n_patients: patients behind the score: those with annotated pixels, or with a case.
        n_replicates: draws of the budget; 1 for a budget of everything, which has no draw.
        diff: mean of (this - ``diff_to``) on common draws, seeds and patients; diff_low, diff_high: its interval.
        diff_to: ``supervised`` at the same budget; None for ``supervised`` itself and for ``full``.
        tie: whether the row is among the best of its (dataset, budget, metric), ``full`` excluded: the row of the best
            mean, and every row that is not told from it at 5 % by p adjusted over all pairs of these rows (Holm). So
            of equal methods any is left out in at most 5 % of tables. There is a winner only if exactly one row is
            marked. False if there is nothing to compare with.
        n_trials_failed: number of trials of this cell recorded as failed.
    """

    dataset: str
    method: str
    budget: str
    minutes: float | None
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    n_seeds: int
    n_patients: int
    n_replicates: int
    diff: float | None
    diff_low: float | None
    diff_high: float | None
    diff_to: str | None
    tie: bool
    n_trials_failed: int


@dataclass(frozen=True)
class CellKey:
    """A cell that the plan asks for, with its number of trials (draws x seeds)."""

    dataset: str
    method: str
    budget: str
    n_trials: int
    minutes: float | None = None


@dataclass(frozen=True)
class Gap:
    """An incomplete cell, whose rows have no numbers."""

    dataset: str
    method: str
    budget: str
    n_done: int
    n_planned: int
    n_failed: int


@dataclass(frozen=True)
class Leaderboard:
    """The table, its gaps, and notes for the reader.

    Attributes:
        shares: share of the annotated test pixels by (dataset, class).
        compute: compute cost of the complete cells.
    """

    rows: tuple[LeaderboardRow, ...]
    gaps: tuple[Gap, ...]
    notes: tuple[str, ...]
    pseudo: tuple[PseudoRow, ...] = ()
    shares: Mapping[tuple[str, str], float] = field(default_factory=dict)
    efficiency: tuple[EfficiencyRow, ...] = ()
    compute: tuple[ComputeRow, ...] = ()


def build(
    results: Sequence[TrialResult],
    *,
    expected: Sequence[CellKey] = (),
    failures: Sequence[Failure] = (),
) -> Leaderboard:
    """Build all rows, by dataset, budget (in minutes), method and metric; the same inputs give the same numbers.

    A cell with fewer trials than ``expected``, or with a failed trial, is a gap: a mean over the trials that happened
    to finish is not the score of the method. Without ``expected``, a cell is complete if none of its trials failed.

    Raises:
        DataError: results of one dataset are not comparable (``panel.panels``).

    Examples:
        >>> from pathlib import Path
        >>> from tissuebench.results.records.result_store import ResultStore
        >>> from tissuebench.results.tables.comparable import comparable_results
        >>> results = comparable_results(ResultStore(Path("runs/results")))[0]
        >>> build(results).rows[0].metric
        'miou'
    """
    finished = {result.trial_id for result in results}
    failed = Counter((f.dataset, f.method, f.budget) for f in failures if f.trial_id not in finished)
    done = Counter((r.dataset, r.method, r.budget) for r in results)
    planned = {key: done[key] + failed[key] for key in done | failed}
    minutes: dict[tuple[str, str, str], float | None] = {}
    for cell in expected:
        key = (cell.dataset, cell.method, cell.budget)
        planned[key], minutes[key] = cell.n_trials, cell.minutes
    gaps = {
        key: Gap(*key, n_done=done[key], n_planned=n, n_failed=failed[key])
        for key, n in sorted(planned.items())
        if done[key] < n or failed[key]
    }
    rows: list[LeaderboardRow] = []
    notes: list[str] = []
    efficient: list[EfficiencyRow] = []
    by_dataset = {panel.dataset: panel for panel in panels(results)}
    shares = {(name, label): share for name, panel in by_dataset.items() for label, share in panel.shares.items()}
    for dataset in sorted({key[0] for key in planned}):
        panel = by_dataset.get(dataset)
        if panel is not None:
            complete = [cell for key, cell in panel.cells.items() if (dataset, *key) not in gaps]
            of_panel, first = _rows(panel, complete)
            rows += of_panel
            efficient += _efficiency(panel, complete, first)
            notes += panel.case_notes()
            minutes |= {(dataset, *key): cell.minutes for key, cell in panel.cells.items()}
        metrics = PIXEL_METRICS if panel is None else panel.metrics
        missing = [gap for key, gap in gaps.items() if key[0] == dataset]
        rows += [_gap_row(gap, minutes, metric) for gap in missing for metric in metrics]
    used = [r for r in results if (r.dataset, r.method, r.budget) not in gaps]
    notes += [*_notes_of_choice(used), *notes_of_precision(used)]
    pseudo = pseudo_rows(used, minutes)
    pseudo.sort(key=lambda row: (row.dataset, *cell_order(row)))
    rows += [_diagnostic_row(row, kind, mean) for row in pseudo for kind, mean in _diagnostics(row)]
    order = {id(row): i for i, row in enumerate(rows)}  # metrics keep the order of their panel
    rows.sort(key=lambda row: (row.dataset, *cell_order(row), order[id(row)]))
    return Leaderboard(
        rows=tuple(rows),
        gaps=tuple(gaps.values()),
        notes=tuple(notes),
        pseudo=tuple(pseudo),
        shares=shares,
        efficiency=tuple(efficient),
        compute=tuple(sorted(compute_rows(used), key=lambda row: (row.dataset, *cell_order(row)))),
    )


def _notes_of_choice(results: Sequence[TrialResult]) -> list[str]:
    """Return a note for each method with several variants on the test part: whoever picks the best picks luck, too."""
    variants: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result in results:
        if part_of(result.identity) == TEST:
            variants[result.dataset, method_of(result.method)].add(result.method)
    return [
        f"{dataset}: {len(names)} variants of {method} stand here with test scores; choose among variants on the "
        "validation part ('tissuebench results best'), as the best test score of several is too high"
        for (dataset, method), names in sorted(variants.items())
        if len(names) > 1
    ]


def cell_order(row: LeaderboardRow | PseudoRow | ComputeRow) -> tuple[bool, bool, float, str, bool, str]:
    """Sort key: budgets by minutes, ``supervised`` first within each, ``full`` after everything else."""
    unknown = row.minutes is None
    return (row.method == UPPER, unknown, row.minutes or 0.0, row.budget, row.method != LOWER, row.method)


_First = Mapping[tuple[str, str], Scored]
"""The table's first metric by (method, budget)."""


def _rows(panel: Panel, cells: Sequence[Cell]) -> tuple[list[LeaderboardRow], _First]:
    """Rows of complete cells, budget by budget, so that the influences of one budget are held at a time."""
    budgets = defaultdict(list)
    for cell in cells:
        budgets[cell.budget].append(cell)
    rows: list[LeaderboardRow] = []
    first: dict[tuple[str, str], Scored] = {}
    for budget, group in budgets.items():
        scored = {cell.method: score(cell) for cell in group}
        differences = {
            (a, b): estimate(both)
            for a, b in itertools.permutations(scored, 2)
            if (a < b or b == LOWER) and (both := pair(scored[a], scored[b])) is not None
        }
        by_method = [_cell_rows(panel, cell, scored[cell.method], differences) for cell in group]
        rows += _mark_ties(list(zip(*by_method, strict=True)), differences)
        first |= {(method, budget): one.only([0]) for method, one in scored.items()}
    return rows, first


def _efficiency(panel: Panel, cells: Sequence[Cell], first: _First) -> list[EfficiencyRow]:
    """Label efficiency, in the table's first metric, of methods with two or more budgets of nonzero minutes."""
    budgets = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: (cell.method != LOWER, cell.method, cell.minutes)):
        if cell.method != UPPER and cell.minutes > 0:
            budgets[cell.method].append(cell)
    curves = {
        method: Curve(tuple(cell.minutes for cell in group), tuple(first[method, cell.budget] for cell in group))
        for method, group in budgets.items()
        if len({cell.minutes for cell in group}) == len(group) > 1
    }
    full = [scored for (method, _), scored in first.items() if method == UPPER]
    return efficiency(panel.dataset, panel.metrics[0], curves, full[0] if len(full) == 1 else None)


_Differences = Mapping[tuple[str, str], Estimate]
"""Differences a - b of the methods of one (dataset, budget), by (a, b)."""


def _cell_rows(panel: Panel, cell: Cell, scored: Scored, differences: _Differences) -> list[LeaderboardRow]:
    found = estimate(scored)
    diff_to = None if cell.method in (LOWER, UPPER) else LOWER
    diff = differences.get((cell.method, LOWER)) if diff_to else None
    seeds = Counter(draw for draw, _ in cell.runs)
    return [
        LeaderboardRow(
            dataset=panel.dataset,
            method=cell.method,
            budget=cell.budget,
            minutes=cell.minutes,
            metric=metric,
            mean=number(found.mean[j]),
            low=number(found.low[j]),
            high=number(found.high[j]),
            n_seeds=min(seeds.values()),
            n_patients=panel.n_of(metric),
            n_replicates=len(seeds),
            diff=None if diff is None else number(diff.mean[j]),
            diff_low=None if diff is None else number(diff.low[j]),
            diff_high=None if diff is None else number(diff.high[j]),
            diff_to=diff_to,
            tie=False,
            n_trials_failed=0,
        )
        for j, metric in enumerate(panel.metrics)
    ]


def _mark_ties(columns: Sequence[Sequence[LeaderboardRow]], differences: _Differences) -> list[LeaderboardRow]:
    """Return the rows of one (dataset, budget), grouped by metric, with the top group of each metric marked."""
    marked: list[LeaderboardRow] = []
    for j, column in enumerate(columns):
        means = {row.method: row.mean for row in column if row.method != UPPER and row.mean is not None}
        p_values = {(a, b): float(diff.p[j]) for (a, b), diff in differences.items() if a < b}
        best = among_best(means, p_values, lower_is_better=lower_is_better(column[0].metric))
        marked += [replace(row, tie=row.method in best) for row in column]
    return marked


def number(value: float) -> float | None:
    """Convert to a Python float; None for nan."""
    return None if np.isnan(value) else float(value)


def _gap_row(gap: Gap, minutes: dict[tuple[str, str, str], float | None], metric: str) -> LeaderboardRow:
    known = minutes.get((gap.dataset, gap.method, gap.budget))
    if known is None:  # the same budget costs the same minutes whatever the method
        same = [m for (d, _, b), m in sorted(minutes.items()) if (d, b) == (gap.dataset, gap.budget) and m is not None]
        known = same[0] if same else None
    return LeaderboardRow(
        dataset=gap.dataset,
        method=gap.method,
        budget=gap.budget,
        minutes=known,
        metric=metric,
        mean=None,
        low=None,
        high=None,
        n_seeds=0,
        n_patients=0,
        n_replicates=0,
        diff=None,
        diff_low=None,
        diff_high=None,
        diff_to=None if gap.method in (LOWER, UPPER) else LOWER,
        tie=False,
        n_trials_failed=gap.n_failed,
    )


def _diagnostics(row: PseudoRow) -> list[tuple[str, float | None]]:
    return [(MIOU, row.miou), (COVERAGE, row.coverage)]


def _diagnostic_row(row: PseudoRow, kind: str, mean: float | None) -> LeaderboardRow:
    return LeaderboardRow(
        dataset=row.dataset,
        method=row.method,
        budget=row.budget,
        minutes=row.minutes,
        metric=kind + row.layer,
        mean=mean,
        low=None,
        high=None,
        n_seeds=row.n_seeds,
        n_patients=0,
        n_replicates=row.n_replicates,
        diff=None,
        diff_low=None,
        diff_high=None,
        diff_to=None,
        tie=False,
        n_trials_failed=0,
    )
