"""Scores of individual patients, the blocks of tests that do not use pooled scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tissuebench.results.case_metrics import CASE_METRICS
from tissuebench.results.metrics import Floats
from tissuebench.results.stats.bootstrap import Run
from tissuebench.results.tables.panel import Cell

POOLED_ONLY = frozenset(CASE_METRICS)
"""Metrics that are undefined for a single patient."""


def own_scores(cell: Cell, runs: Sequence[Run]) -> Floats:
    """Return scores of each patient's own slides in these runs of the cell, in the order given: (P, R, M)."""
    return cell.scores(np.eye(len(cell.patients)))[:, [cell.runs.index(run) for run in runs]]


def own_differences(a: Cell, b: Cell, common: Sequence[Run]) -> Floats:
    """Return a - b of each patient's own scores, averaged over the common runs, (P, M); nan without a common run."""
    if not common:
        return np.full((len(a.patients), len(a.metrics)), np.nan)
    return np.asarray((own_scores(a, common) - own_scores(b, common)).mean(1), dtype=np.float64)


def common_runs(cells: Sequence[Cell]) -> tuple[Run, ...]:
    """Return the (replicate, seed) that all cells have, sorted."""
    return tuple(sorted(set.intersection(*(set(cell.runs) for cell in cells))))
