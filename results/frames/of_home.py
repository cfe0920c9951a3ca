"""Stored results of a home folder as DataFrames: `tissuebench.results.frame()` and its neighbours.

All take the same arguments:

- `home`: folder that holds `data/` and `runs/`; by default `$TISSUEBENCH_HOME`, else the current folder.
- `dataset`: only this dataset.
- `everything`: also results under other settings (part, plan), which `tissuebench results table --all` shows. By
  default only the main group of each dataset: trials that one table compares. A warning tells how many are left out.

Scores are those of the tables. They raise `ConfigError` without the home folder, `DataError` if a file is damaged.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import pandas as pd

from tissuebench.common.home import existing_home
from tissuebench.errors import DataError
from tissuebench.results.frames.rows import of_rows
from tissuebench.results.frames.trials import patient_scores, slide_counts, trial_scores
from tissuebench.results.records.curves import read_curves
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import Group, results_folder, select, short_key
from tissuebench.results.tables.leaderboard import LeaderboardRow, build

_CURVE = {"trial_id": "str", "stage": "str", "step": "int64", "metric": "str", "value": "float64"}


def frame(home: Path | str | None = None, *, dataset: str | None = None, everything: bool = False) -> pd.DataFrame:
    """Return trials x metrics: one row per finished trial, its scores pooled over all patients of the scored part.

    | column | dtype | |
    |---|---|---|
    | `trial_id`, `dataset` | str | |
    | `method` | str | variant: the settings that differ from the method's defaults stand in brackets |
    | `budget` | str | as in a plan: `masks:3p`, `minutes:60` |
    | `minutes` | float64 | annotation minutes of the budget |
    | `replicate`, `seed` | int64 | draw of the budget, and seed |
    | `part` | str | part of the split that was scored: `test` or `val` |
    | `settings` | str | beginning of the hash of everything that trials of one table have in common |
    | `miou`, ... | float64 | a column per metric, `dice/CLASS` and so on per class; between 0 and 1, or missing |

    Raises:
        ConfigError: no such home folder.
        DataError: no results, or a damaged one.

    Examples:
        >>> trials = frame("home")
        >>> trials.groupby(["method", "budget"])["miou"].mean()
    """
    parts = []
    for group in _groups(home, dataset, everything):
        scores = trial_scores(group.results)
        scores.insert(scores.columns.get_loc("seed") + 1, "part", group.part)
        scores.insert(scores.columns.get_loc("part") + 1, "settings", short_key(group.key))
        parts.append(scores)
    return pd.concat(parts, ignore_index=True)


def patients(home: Path | str | None = None, *, dataset: str | None = None, everything: bool = False) -> pd.DataFrame:
    """Return the scores of each annotated patient alone, one row per (trial, patient, metric).

    Columns `trial_id` to `seed` as in `frame`, then `patient` (str), `metric` (str) and `score` (float64,
    missing if the patient has no such class). Metrics of cases are left out: a single patient has none.

    Raises:
        ConfigError: no such home folder.
        DataError: no results, or a damaged one.

    Examples:
        >>> scores = patients("home")
        >>> scores[scores.metric == "miou"].pivot_table("score", "patient", "method")
    """
    groups = _groups(home, dataset, everything)
    return pd.concat([patient_scores(group.results) for group in groups], ignore_index=True)


def slides(home: Path | str | None = None, *, dataset: str | None = None, everything: bool = False) -> pd.DataFrame:
    """Return the confusion of each slide, one row per (trial, slide, true class, predicted class) with pixels.

    Columns `trial_id` to `seed` as in `frame`, then `patient`, `slide`, `truth`, `predicted` (str) and
    `pixels` (int64, annotated pixels of the store).

    Raises:
        ConfigError: no such home folder.
        DataError: no results, or a damaged one.

    Examples:
        >>> counts = slides("home")
        >>> counts.pivot_table("pixels", "truth", "predicted", aggfunc="sum")
    """
    groups = _groups(home, dataset, everything)
    return pd.concat([slide_counts(group.results) for group in groups], ignore_index=True)


def board(home: Path | str | None = None, *, dataset: str | None = None, everything: bool = False) -> pd.DataFrame:
    """Return the leaderboard, one row per (dataset, method, budget, metric).

    The columns are the fields of `LeaderboardRow`, then `part` and `settings` (str) as in `frame`:

    | column | dtype | |
    |---|---|---|
    | `dataset`, `method`, `budget` | str | |
    | `minutes` | float64 | annotation minutes of the budget, mean over its draws |
    | `metric` | str | |
    | `mean`, `low`, `high` | float64 | score and its 95 % interval; missing if undefined |
    | `n_seeds`, `n_patients`, `n_replicates` | int64 | seeds per draw, patients behind the score, draws |
    | `diff`, `diff_low`, `diff_high` | float64 | difference to `diff_to` and its 95 % interval |
    | `diff_to` | str | `supervised`; missing for the controls |
    | `tie` | bool | among the best at its budget |
    | `n_trials_failed` | int64 | 0, as cells with failed trials are left to the command line's table |

    Raises:
        ConfigError: no such home folder.
        DataError: no results, or a damaged one.

    Examples:
        >>> rows = board("home")
        >>> rows.pivot(index=["budget", "method"], columns="metric", values="mean")
    """
    parts = []
    for group in _groups(home, dataset, everything):
        rows = of_rows(LeaderboardRow, build(group.results).rows)
        parts.append(rows.assign(part=group.part, settings=short_key(group.key)))
    return pd.concat(parts, ignore_index=True)


def curves(home: Path | str | None = None) -> pd.DataFrame:
    """Return the curves of all trainings, of those that still run, too: one row per value that was logged.

    A stage that several trials share is listed with each of them. Without any curve the frame has no rows.

    | column | dtype | |
    |---|---|---|
    | `trial_id` | str | |
    | `stage` | str | empty for the last stage, which is the one that is scored |
    | `step` | int64 | finished optimiser steps |
    | `metric` | str | `train/loss`, `val/miou`, ... |
    | `value` | float64 | missing or infinite where a training diverged |

    Raises:
        ConfigError: no such home folder.
        DataError: a file of curves, or the job of a trial, is damaged.

    Examples:
        >>> found = curves("home")
        >>> losses = found[found.metric == "train/loss"]
        >>> losses.pivot(index="step", columns=["trial_id", "stage"], values="value").plot()
    """
    runs = existing_home(home) / "runs"
    read = cache(read_curves)
    rows = [
        (folder.name, stage, step, metric, value)
        for folder in sorted((runs / "trials").glob("*"))
        for stage, of_stage in {**_stages(folder, runs / "stages"), "": folder}.items()
        for metric, points in read(of_stage).items()
        for step, value in points
    ]
    return pd.DataFrame(rows, columns=list(_CURVE)).astype(_CURVE)


def _stages(trial: Path, stages: Path) -> dict[str, Path]:
    """Return the folders of a trial's earlier stages, by the name of the stage; none before it is started."""
    path = trial / "job.json"
    try:
        needs: dict[str, str] = json.loads(path.read_bytes())["document"]["needs"]
        return {name: stages / key for name, key in needs.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a usable job ({error}); delete it and run its plan again") from None


def _groups(home: Path | str | None, dataset: str | None, everything: bool) -> tuple[Group, ...]:
    folder = existing_home(home)
    selected = select(ResultStore(results_folder(folder)), dataset, everything)
    for line in selected.notes:
        warnings.warn(line, stacklevel=3)
    if not selected.groups:
        of = "" if dataset is None else f" of dataset {dataset!r}"
        raise DataError(f"{folder / 'runs'}: no results{of} yet; start with tissuebench.run or 'tissuebench run'")
    return selected.groups
