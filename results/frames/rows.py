"""Rows of a table as a DataFrame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tissuebench.results.metrics import PIXEL_METRICS
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.label_efficiency import EfficiencyRow
from tissuebench.results.tables.leaderboard import LeaderboardRow
from tissuebench.results.tables.ranks import rankings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_RANK = dict.fromkeys(("datasets", "budget", "metric", "method"), "str") | {"rank": "float64", "n_datasets": "int64"}
_RANK |= dict.fromkeys(("friedman_statistic", "friedman_p", "critical_difference"), "float64")


def of_rows(kind: type[DataclassInstance], rows: Sequence[DataclassInstance]) -> pd.DataFrame:
    """Return one column per field, typed by its annotation even without rows; missing where a field is None."""
    return pd.DataFrame(
        {
            field.name: pd.Series([getattr(row, field.name) for row in rows], dtype=str(field.type).split(" | ")[0])
            for field in fields(kind)
        }
    )


def leaderboard_csv(rows: Sequence[LeaderboardRow]) -> str:
    """Return CSV: a header, then one line per row, the fields of ``LeaderboardRow``; empty where there is no number."""
    return str(of_rows(LeaderboardRow, rows).to_csv(index=False, lineterminator="\n"))


def ranks(groups: Sequence[Sequence[TrialResult]]) -> pd.DataFrame:
    """Return the ranks of the methods over datasets in each overall metric, each with the fields of its ``Ranking``.

    Names of datasets are joined by commas. Empty with fewer than ``ranks.LEAST_DATASETS``.
    """
    everything = [result for results in groups for result in results]
    rows = [
        {**vars(ranking), **vars(row), "datasets": ",".join(ranking.datasets), "n_datasets": len(ranking.datasets)}
        for metric in PIXEL_METRICS
        for ranking in rankings(everything, metric=metric)
        for row in ranking.rows
    ]
    return pd.DataFrame(rows, columns=list(_RANK)).astype(_RANK).replace([math.inf, -math.inf], np.nan)


def label_efficiency(rows: Sequence[EfficiencyRow]) -> pd.DataFrame:
    """Return the fields of ``EfficiencyRow``; censored minutes are missing.

    ``minutes_censored`` and its counterparts give the side: ``left`` if the smallest budget already suffices
    (``smallest`` minutes or fewer), ``right`` if the largest does not (more than ``largest``), missing otherwise.
    """
    frame = of_rows(EfficiencyRow, rows)
    for name in ("minutes", "minutes_low", "minutes_high"):
        sides = [{0.0: "left", math.inf: "right"}.get(value) for value in frame[name]]
        frame[name] = frame[name].replace([0.0, math.inf], np.nan)
        frame.insert(frame.columns.get_loc(name) + 1, f"{name}_censored", pd.Series(sides, dtype="str"))
    return frame
