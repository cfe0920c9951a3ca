"""Data of one subject, arranged for figures: complete cells, patients by difficulty, budgets by minutes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tissuebench.results.metrics import Floats
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.report.styles import MethodStyle
from tissuebench.results.report.subject import Subject
from tissuebench.results.tables.compute_cost import ComputeRow, compute_rows
from tissuebench.results.tables.leaderboard import UPPER, LeaderboardRow
from tissuebench.results.tables.panel import panels

PRIMARY = "miou"
Key = tuple[str, str]
"""(method, budget)"""


@dataclass(frozen=True, eq=False)
class CellView:
    """Data of one complete cell.

    Attributes:
        rows: rows of the leaderboard, by metric.
        own: (P, R) own score of each of ``View.patients`` in ``PRIMARY``, in each run; nan where there is none.
        counts: (K, K) int64 pixels over all slides and runs.
        calibration: (15, 3) likewise.
        compute: compute cost.
    """

    method: str
    budget: str
    minutes: float
    rows: Mapping[str, LeaderboardRow]
    own: Floats
    counts: npt.NDArray[np.int64]
    calibration: Floats
    compute: ComputeRow

    def row(self, metric: str = PRIMARY) -> LeaderboardRow | None:
        """Return the row of a metric; None if it has no number."""
        found = self.rows.get(metric)
        return found if found is not None and found.mean is not None else None


@dataclass(frozen=True, eq=False)
class View:
    """Data of one subject.

    Attributes:
        slug: safe as a file name and as an id.
        title: name of the data set, numbered if a report has several groups of it.
        styles: styles by method variant.
        cells: complete cells, by (method, budget), in the order of the leaderboard.
        budgets: budgets of methods other than ``full``, with the largest minutes of any method, cheapest first.
        metrics: metrics of the test part, in the order of the leaderboard.
        patients: patients with annotated pixels, by mean over all cells, hardest first.
        shares: share of the annotated test pixels per class.
    """

    slug: str
    title: str
    subject: Subject
    styles: Mapping[str, MethodStyle]
    cells: Mapping[Key, CellView]
    budgets: tuple[tuple[str, float], ...]
    metrics: tuple[str, ...]
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    shares: tuple[float, ...]
    patients: tuple[str, ...]

    @property
    def full(self) -> CellView | None:
        """Cell of the upper bound; None unless exactly one is complete."""
        found = [cell for cell in self.cells.values() if cell.method == UPPER]
        return found[0] if len(found) == 1 else None

    def at(self, budget: str, *, best_first: bool = True) -> list[CellView]:
        """Return the cells with a score at a budget, except ``full``."""
        found = [cell for (m, b), cell in self.cells.items() if b == budget and m != UPPER and cell.row() is not None]
        return sorted(found, key=lambda cell: -_mean(cell)) if best_first else found

    def with_full(self, budget: str) -> list[CellView]:
        """Return the cells of ``at`` followed by ``full``."""
        return self.at(budget) + ([self.full] if self.full is not None else [])


def view(subject: Subject, slug: str, title: str, styles: Mapping[str, MethodStyle]) -> View:
    """Arrange the data of a subject; ``DataError`` if its results are not comparable."""
    rows: dict[Key, dict[str, LeaderboardRow]] = defaultdict(dict)
    metrics: dict[str, None] = {}
    for row in subject.board.rows:
        rows[row.method, row.budget][row.metric] = row
        if not row.metric.startswith("pseudo_"):
            metrics.setdefault(row.metric)
    incomplete = {(gap.method, gap.budget) for gap in subject.board.gaps}
    complete = [result for result in subject.results if (result.method, result.budget) not in incomplete]
    found = panels(complete)
    panel = found[0] if found else None
    computed = {(row.method, row.budget): row for row in compute_rows(complete)}
    of_cell: dict[Key, list[TrialResult]] = defaultdict(list)
    for result in complete:
        of_cell[result.method, result.budget].append(result)
    cells: dict[Key, CellView] = {}
    patients: tuple[str, ...] = ()
    if panel is not None:
        column = panel.metrics.index(PRIMARY)
        alone = np.eye(len(panel.patients))
        own = {key: cell.scores(alone)[..., column] for key, cell in panel.cells.items()}
        order = [i for i in _hardest_first(list(own.values())) if panel.annotated[i]]
        patients = tuple(panel.patients[i] for i in order)
        for key in rows:
            if key in panel.cells:
                trials = of_cell[key]
                cells[key] = CellView(
                    method=key[0],
                    budget=key[1],
                    minutes=panel.cells[key].minutes,
                    rows=rows[key],
                    own=own[key][order],
                    counts=np.sum([trial.counts.sum(0) for trial in trials], axis=0),
                    calibration=np.sum([trial.calibration.sum(0) for trial in trials], axis=0),
                    compute=computed[key],
                )
    first = complete[0] if complete else None
    return View(
        slug=slug,
        title=title,
        subject=subject,
        styles=styles,
        cells=cells,
        budgets=_budgets(list(cells.values())),
        metrics=tuple(metrics),
        classes=first.classes if first else (),
        colors=first.colors if first else (),
        shares=tuple(panel.shares.values()) if panel else (),
        patients=patients,
    )


def _budgets(cells: Sequence[CellView]) -> tuple[tuple[str, float], ...]:
    minutes: dict[str, float] = defaultdict(float)
    for cell in cells:
        if cell.method != UPPER:
            minutes[cell.budget] = max(minutes[cell.budget], cell.minutes)
    return tuple(sorted(minutes.items(), key=lambda item: (item[1], item[0])))


def _hardest_first(own: Sequence[Floats]) -> list[int]:
    """Order patients by score, averaged over runs, then over cells; those without any score come last."""
    scores = np.stack([_nanmean(one) for one in own], -1)
    means = _nanmean(scores)
    return [int(i) for i in np.argsort(np.where(np.isnan(means), np.inf, means), kind="stable")]


def _nanmean(values: Floats) -> Floats:
    there = ~np.isnan(values)
    n = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.asarray(np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0), dtype=np.float64)


def patient_means(cell: CellView) -> Floats:
    """Score of each patient, averaged over the runs that have one, (P,)."""
    return _nanmean(cell.own)


def _mean(cell: CellView) -> float:
    row = cell.row()
    return row.mean if row is not None and row.mean is not None else float("-inf")
