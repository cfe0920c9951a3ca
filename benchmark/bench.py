"""The main job: open the data, expand the plan, run what is missing, publish, hand back the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tissuebench.comparison import board_of_trials, comparison_key, results_folder
from tissuebench.config import load_plan
from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.ingest import ensure_store
from tissuebench.files import write_aside
from tissuebench.plan import PlannedData, check_part, expand, with_controls
from tissuebench.progress import ProgressDisplay
from tissuebench.results.leaderboard import Leaderboard
from tissuebench.results.store import ResultStore
from tissuebench.results.table import to_csv, to_json
from tissuebench.runner import run_trials
from tissuebench.tracking import publish


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    methods: tuple[str, ...]
    dataset: str
    data_root: Path | None
    plan: str
    overrides: tuple[str, ...]
    home: Path
    retry_failed: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The table and how many trials failed; after a dry run no table, but a line for each trial."""

    board: Leaderboard | None
    n_failed: int
    listing: tuple[str, ...] = ()


def open_data(dataset: str, data_root: Path | None, home: Path, display: ProgressDisplay) -> PlannedData:
    """The dataset's store and split, made first if they are not there; errors as ``ensure_store``."""
    made = ensure_store(find_recipe(dataset, data_root), home, data_root, display.phase)
    if made.quarantine:
        display.note(f"{len(made.quarantine)} slides are left out; 'tissuebench data inspect {dataset}' says why")
    return PlannedData(made.store, made.split)


def bench(request: Request) -> Outcome:
    """Run a plan to its end.

    Raises:
        TissueBenchError: bad input or configuration; found before anything is trained.
    """
    plan = load_plan(request.plan, request.overrides)
    with_controls(request.methods)
    with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
        data = open_data(request.dataset, request.data_root, request.home, display)
        check_part(data, plan.evaluation.part)
        trials = expand(plan, request.methods, data, request.home)
        store = ResultStore(results_folder(request.home))
        if request.dry_run:
            states = ("finished" if store.has(trial.id) else "to run" for trial in trials)
            return Outcome(
                None, 0, tuple(f"{t.id} {t.label}: {state}" for t, state in zip(trials, states, strict=True))
            )
        summary = run_trials(trials, plan, data, request.home, display, request.retry_failed)
        board = board_of_trials(store, trials)
        results = store.load({trial.id for trial in trials})
        runs = request.home / "runs"
        tables = runs / "tables"
        write_aside(tables / f"{data.store.info.dataset}.csv", to_csv(board.rows).encode())
        write_aside(tables / f"{data.store.info.dataset}.json", to_json(board.rows).encode())
        if results:
            display.note(publish(results, board, runs, runs / "trials", comparison_key(results[0])))
    return Outcome(board, len(summary.failed))
