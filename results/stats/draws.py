"""Bootstrap draws of one dataset, seeded by name so that the same results give the same table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tissuebench.common.hashing import Json, derive_seed
from tissuebench.results.metrics import Floats
from tissuebench.results.stats.bootstrap import (
    N_BOOT,
    Interval,
    Run,
    Scored,
    interval,
    pair,
    patient_weights,
    run_weights,
)


class Draws:
    """Draws of a dataset: of patients, shared by all cells, and of runs, shared by cells with the same runs."""

    def __init__(self, dataset: str, n_patients: int, n_boot: int = N_BOOT) -> None:
        self.dataset = dataset
        self.n_patients = n_patients
        self.n_boot = n_boot
        self._runs: dict[tuple[Run, ...], Floats] = {}

    @cached_property
    def patients(self) -> Floats:
        """Number of times each patient was drawn, (n_boot, P)."""
        return patient_weights(self._rng("patients"), self.n_patients, self.n_boot)

    def runs(self, runs: Sequence[Run]) -> Floats:
        """Number of times each run was drawn, (n_boot, R); depends only on the set of runs."""
        key = tuple(runs)
        if key not in self._runs:
            rng = self._rng("runs", [list(run) for run in runs])
            self._runs[key] = run_weights(rng, key, self.n_boot)
        return self._runs[key]

    def interval(self, scored: Scored) -> Interval:
        """Return ``bootstrap.interval`` under these draws."""
        return interval(scored, self.runs(scored.runs))

    def difference(self, a: Scored, b: Scored) -> Interval | None:
        """Interval of a - b on their common runs under these draws; None if there are none."""
        both = pair(a, b)
        return None if both is None else self.interval(both)

    def _rng(self, *names: Json) -> np.random.Generator:
        return np.random.default_rng(derive_seed("leaderboard", self.dataset, *names))
