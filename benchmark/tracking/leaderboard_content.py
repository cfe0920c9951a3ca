"""Content of the leaderboard run and its report, as plain values; never imports wandb."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tissuebench import __version__
from tissuebench.common.hashing import Json, content_hash
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.label_efficiency import EfficiencyRow
from tissuebench.results.tables.leaderboard import UPPER, LeaderboardRow
from tissuebench.results.tables.pairs import PairRow, pairs
from tissuebench.tracking.report import SCORE, Budget, ReportDefinition, Score
from tissuebench.tracking.side_by_side import SideBySide, one_trial_each, side_by_side

Told = Sequence[Mapping[str, Json]]
"""Fields of rows, as parsed from JSON."""


@dataclass(frozen=True)
class Table:
    """Column names, and rows with one value per column."""

    columns: Sequence[str]
    data: Sequence[Sequence[Json]]


@dataclass(frozen=True)
class BoardContent:
    """Everything shown of one comparison.

    Attributes:
        comparison: value that its runs share in their config under this name.
        n_trials: number of finished trials.
        results: results of cells that have numbers in the table.
        rows: fields of each ``LeaderboardRow``.
        efficiency: fields of each ``EfficiencyRow``.
        tiles: chosen tiles, with the prediction of each of ``methods``.
    """

    dataset: str
    classes: Sequence[str]
    comparison: str
    n_trials: int
    results: Sequence[TrialResult]
    rows: Told
    efficiency: Told
    tiles: Sequence[SideBySide]
    methods: Sequence[str]

    @classmethod
    def collect(
        cls, home: Path, comparison: str, results: Sequence[TrialResult], rows: Told, efficiency: Told
    ) -> BoardContent:
        """Collect the content, including the overlays that trials have stored in ``home``.

        Raises:
            DataError: the index of a trial's overlays is damaged.
        """
        complete = {(row["method"], row["budget"]) for row in rows if row["mean"] is not None}
        shown = [result for result in results if (result.method, result.budget) in complete]
        chosen = one_trial_each(shown)
        tiles = side_by_side(home, chosen)
        methods = [one.method for one in chosen if any(one.method in tile.predictions for tile in tiles)]
        first = results[0]
        return cls(first.dataset, first.classes, comparison, len(results), shown, rows, efficiency, tiles, methods)

    @property
    def table_names(self) -> list[str]:
        """Names of the tables, in the order of the report; ``overlays`` contains pictures and is not in ``tables``."""
        there = {
            "leaderboard": True,
            "pairs": len({result.method for result in self.results}) > 1,
            "efficiency": bool(self.efficiency),
            "overlays": bool(self.tiles),
        }
        return [name for name, is_there in there.items() if is_there]

    def tables(self) -> dict[str, Table]:
        """Return the tables of numbers by name."""
        makes: dict[str, Callable[[], Table]] = {
            "leaderboard": lambda: _table([field.name for field in fields(LeaderboardRow)], self.rows),
            "pairs": lambda: _pairs_table(self.results),
            "efficiency": lambda: efficiency_table(self.efficiency),
        }
        return {name: makes[name]() for name in self.table_names if name in makes}

    @property
    def hash(self) -> str:
        """Hash of everything that determines ``tables`` and pictures."""
        trials = sorted(result.trial_id for result in self.results)
        finite = [list(row) for row in efficiency_table(self.efficiency).data]
        tiles: list[Json] = [[one.tile.slide_id, one.tile.y, one.tile.x, sorted(one.predictions)] for one in self.tiles]
        return content_hash([self.table_names, list(self.rows), finite, trials, tiles])

    def definition(self, run_id: str, project: str, entity: str) -> ReportDefinition:
        """Return the definition of the report that shows this content."""
        return ReportDefinition(
            run_id=run_id,
            project=project,
            entity=entity,
            version=__version__,
            dataset=self.dataset,
            comparison=self.comparison,
            content=self.hash,
            n_trials=self.n_trials,
            budgets=budgets(self.rows),
            scores=scores(self.rows),
            tables=self.table_names,
            has_curves=bool(curves(self.rows)),
        )


def efficiency_table(rows: Told) -> Table:
    """Return the rows without infinities, which JSON does not support: a remark states their meaning instead."""
    told = [
        {**{name: None if value == math.inf else value for name, value in row.items()}, "remark": _remark(row)}
        for row in rows
    ]
    return _table([*(field.name for field in fields(EfficiencyRow)), "remark"], told)


def budgets(rows: Told) -> list[Budget]:
    """Return the budgets that have a score, by minutes."""
    minutes = {row.budget: row.minutes for row in _of_score(rows)}
    return [Budget(spec, minutes[spec]) for spec in sorted(minutes, key=lambda spec: (minutes[spec] or 0.0, spec))]


def scores(rows: Told) -> list[Score]:
    """Return the rows of the report's own table."""
    return [Score(row.method, row.budget, row.mean or 0.0, row.low, row.high, row.tie) for row in _of_score(rows)]


def curves(rows: Told) -> dict[str, list[tuple[float, float]]]:
    """Return (minutes, mean) of each method with two budgets or more, by minutes."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in _of_score(rows):
        if row.minutes is not None and row.method != UPPER:
            points[row.method].append((row.minutes, row.mean or 0.0))
    return {method: sorted(some) for method, some in points.items() if len(some) > 1}


def _remark(row: Mapping[str, Json]) -> str:
    if row["minutes"] == 0.0:
        return "95 % of full already at its smallest budget"
    return "95 % of full not even at its largest budget" if row["minutes"] == math.inf else ""


def _pairs_table(results: Sequence[TrialResult]) -> Table:
    return _table([field.name for field in fields(PairRow)], [asdict(row) for row in pairs(results, metrics=(SCORE,))])


def _table(columns: Sequence[str], rows: Told) -> Table:
    return Table(columns, [[row[column] for column in columns] for row in rows])


def _of_score(rows: Told) -> list[LeaderboardRow]:
    return [LeaderboardRow(**row) for row in rows if row["metric"] == SCORE and row["mean"] is not None]  # type: ignore[arg-type]  # our own
