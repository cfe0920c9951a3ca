"""Choice among the variants of a method: the best mean score on the validation part. Never imports torch."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tissuebench.results.metrics import lower_is_better
from tissuebench.results.records.result_store import Failure
from tissuebench.results.records.trial_result import TrialResult, method_of
from tissuebench.results.stats.intervals import estimate
from tissuebench.results.stats.multiple import among_best, holm
from tissuebench.results.stats.scored import Run, pair, score
from tissuebench.results.tables.leaderboard import number
from tissuebench.results.tables.panel import Cell, Panel, panels

METRIC = "miou"


@dataclass(frozen=True)
class VariantRow:
    """A variant of a method at a budget, compared with the best variant. None where there is no number.

    Attributes:
        variant: full name, see ``plans.trial.variant_name``.
        mean: mean over runs of the mIoU pooled over all patients; low, high: its 95 % interval.
        diff: mean of (this - best) on common runs and patients; diff_low, diff_high: its interval; None for the best.
        p_holm: p of no difference to the best, adjusted over all pairs of complete variants.
        n_runs: finished runs (draws x seeds); n_missing: runs that another variant has and this one lacks.
        n_failed: trials recorded as failed.
        chosen: whether it has the best mean of the complete variants; of equal ones, the first by name.
        tie: whether it is complete and not told from the best at 5 %, over all pairs.
    """

    dataset: str
    budget: str
    method: str
    variant: str
    mean: float | None
    low: float | None
    high: float | None
    diff: float | None
    diff_low: float | None
    diff_high: float | None
    p_holm: float | None
    n_runs: int
    n_missing: int
    n_failed: int
    n_patients: int
    chosen: bool
    tie: bool

    @property
    def is_complete(self) -> bool:
        """Whether it has every run that another variant has, and none failed."""
        return self.n_runs > 0 and not self.n_missing and not self.n_failed


def variant_rows(results: Sequence[TrialResult], failures: Sequence[Failure] = ()) -> list[VariantRow]:
    """Return the variants of each method that has several, by dataset, method, budget (in minutes), the best first.

    Only complete variants are candidates: a mean over the runs that happened to finish is not the score of a variant,
    and draws differ in difficulty.

    Args:
        results: comparable results on the validation part.
        failures: trials of the same plans that failed.

    Raises:
        DataError: results of one dataset are not comparable (``panel.panels``).

    Examples:
        >>> rows = variant_rows(comparable_results(ResultStore(Path("runs/results")))[0])
        >>> [(row.budget, row.variant) for row in rows if row.chosen]
    """
    failed = Counter((failure.dataset, failure.method, failure.budget) for failure in failures)
    return [row for panel in panels(results) for row in _of_panel(panel, failed)]


def _of_panel(panel: Panel, failed: Mapping[tuple[str, str, str], int]) -> list[VariantRow]:
    variants: dict[str, set[str]] = defaultdict(set)
    for variant in [*(variant for variant, _ in panel.cells), *(key[1] for key in failed if key[0] == panel.dataset)]:
        variants[method_of(variant)].add(variant)
    minutes = {budget: cell.minutes for (_, budget), cell in panel.cells.items()}
    rows: list[VariantRow] = []
    for method, names in sorted(variants.items()):
        for budget in sorted(minutes, key=lambda budget: (minutes[budget], budget)):
            cells = {name: panel.cells[name, budget] for name in sorted(names) if (name, budget) in panel.cells}
            if len(names) > 1 and cells:
                of_failed = {name: failed.get((panel.dataset, name, budget), 0) for name in names}
                rows += _compared(panel, method, budget, sorted(names), cells, of_failed)
    return rows


def _compared(
    panel: Panel,
    method: str,
    budget: str,
    names: Sequence[str],
    cells: Mapping[str, Cell],
    failed: Mapping[str, int],
) -> list[VariantRow]:
    """Return the rows of one method at one budget; ``cells`` has those of ``names`` with finished runs."""
    where = [panel.metrics.index(METRIC)]
    scored = {name: score(cell).only(where) for name, cell in cells.items()}
    planned: set[Run] = {run for cell in cells.values() for run in cell.runs}
    missing = {name: len(planned - set(cells[name].runs)) if name in cells else len(planned) for name in names}
    complete = [name for name in names if name in cells and not missing[name] and not failed[name]]
    means = {name: float(scored[name].mean[0]) for name in complete}
    both = {(a, b): pair(scored[a], scored[b]) for a, b in itertools.combinations(complete, 2)}
    p_values = {names: float(estimate(one).p[0]) for names, one in both.items() if one is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    best = max(complete, key=lambda name: means[name], default=None)
    alike = among_best(means, p_values, lower_is_better=lower_is_better(METRIC))
    rows = []
    for name in names:
        found = estimate(scored[name]) if name in scored else None
        to_best = pair(scored[name], scored[best]) if name in scored and best not in (None, name) else None
        diff = None if to_best is None else estimate(to_best)
        rows.append(
            VariantRow(
                dataset=panel.dataset,
                budget=budget,
                method=method,
                variant=name,
                mean=None if found is None else number(found.mean[0]),
                low=None if found is None else number(found.low[0]),
                high=None if found is None else number(found.high[0]),
                diff=None if diff is None else number(diff.mean[0]),
                diff_low=None if diff is None else number(diff.low[0]),
                diff_high=None if diff is None else number(diff.high[0]),
                p_holm=None if best is None else adjusted.get((min(name, best), max(name, best))),
                n_runs=len(cells[name].runs) if name in cells else 0,
                n_missing=missing[name],
                n_failed=failed[name],
                n_patients=panel.n_of(METRIC),
                chosen=name == best,
                tie=name in alike,
            )
        )
    return sorted(rows, key=lambda row: (not row.chosen, not row.is_complete, -(row.mean or 0.0), row.variant))
