"""Runs for notebooks and scripts: what ``tissuebench run`` runs, and its table."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd
from rich.console import Console

from tissuebench.bench import BenchRequest, BenchResult, bench
from tissuebench.common.home import existing_or_new_home
from tissuebench.errors import DataError
from tissuebench.results.frames.rows import of_rows
from tissuebench.results.frames.trials import trial_scores
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.render.terminal import render
from tissuebench.results.tables.comparable import results_folder
from tissuebench.results.tables.leaderboard import LeaderboardRow

ValueT = TypeVar("ValueT", str, int)

_WIDTH = 120
_PAGE = '<pre style="line-height: normal; white-space: pre; overflow-x: auto">{code}</pre>'


def run(
    plan: Path | str = "smoke",
    *,
    methods: str | Iterable[str] = (),
    datasets: str | Iterable[str] = (),
    budgets: str | Iterable[str] = (),
    seeds: int | Iterable[int] = (),
    settings: Mapping[str, object] | None = None,
    data_roots: Mapping[str, Path | str] | None = None,
    home: Path | str | None = None,
    retry_failed: bool = False,
) -> Run:
    """Train and evaluate all unfinished trials of a plan, as ``tissuebench run`` does.

    Progress goes to standard error. Interrupted, the same call picks up where it left off. Trials run in processes of
    their own: a script needs no ``if __name__ == "__main__"``.

    Args:
        plan: a built-in plan, or a YAML file.
        methods: methods to compare, with their controls; by default those of the plan, as for the next three.
        datasets: names of datasets.
        budgets: ``masks:3p``, ``minutes:60``, ...
        seeds: seeds.
        settings: keys of the plan to replace: ``{"training.steps": 500, "compute.slots": 2}``.
        data_roots: folders with source files, by dataset.
        home: folder that holds ``data/`` and ``runs/``; by default ``$TISSUEBENCH_HOME``, else the current folder.
        retry_failed: run again the tasks that failed before.

    Raises:
        TissueBenchError: bad input or configuration; found before anything is trained.

    Examples:
        >>> done = run("smoke", methods="complementary", budgets="masks:3p", seeds=0)
        >>> done.board.pivot(index="method", columns="metric", values="mean")
    """
    axes: dict[str, object] = {"budgets": _several(budgets), "seeds": _several(seeds)}
    replaced = {**(settings or {}), **{key: values for key, values in axes.items() if values}}
    folder = existing_or_new_home(home)
    request = BenchRequest(
        methods=_several(methods),
        plan=str(plan),
        home=folder,
        datasets=_several(datasets),
        data_roots={name: Path(root) for name, root in (data_roots or {}).items()},
        overrides=tuple(f"{key}={json.dumps(value, default=str)}" for key, value in replaced.items()),
        retry_failed=retry_failed,
    )
    return Run(folder, bench(request))


@dataclass(frozen=True, eq=False)
class Run:
    """A plan that ran to its end; shows itself as the tables that the command line prints."""

    home: Path
    result: BenchResult

    @property
    def failed(self) -> tuple[str, ...]:
        """Ids of the trials that failed, or were not run because a stage failed; see ``tissuebench trial show``."""
        return tuple(key for key in self.result.trials if key in self.result.summary.failed)

    @property
    def board(self) -> pd.DataFrame:
        """The leaderboard of this plan: a row per (dataset, method, budget, metric), see ``results.board``.

        An incomplete cell has rows without numbers.
        """
        return of_rows(LeaderboardRow, [row for board in self.result.boards for row in board.rows])

    @property
    def trials(self) -> pd.DataFrame:
        """The finished trials x metrics of this plan, see ``results.frame``.

        Raises:
            DataError: none has finished.
        """
        results = ResultStore(results_folder(self.home)).load(self.result.trials)
        if not results:
            raise DataError("no trial of this run has finished; 'tissuebench trial list' shows which failed")
        return trial_scores(results)

    def _rendered(self, export: Callable[[Console], str]) -> str:
        console = Console(file=io.StringIO(), width=_WIDTH, record=True, highlight=False, force_jupyter=False)
        for board in self.result.boards:
            render(board, console)
        return export(console)

    def _repr_html_(self) -> str:
        return self._rendered(lambda console: console.export_html(inline_styles=True, code_format=_PAGE))

    def __repr__(self) -> str:
        return self._rendered(lambda console: console.export_text())


def _several(values: ValueT | Iterable[ValueT]) -> tuple[ValueT, ...]:
    return (values,) if isinstance(values, (str, int)) else tuple(values)
