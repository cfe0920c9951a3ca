"""Compute cost of training: steps, samples, time and memory of each cell and of its earlier stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tissuebench.results.records.trial_result import TrialResult

_STAGE = "stage/"


@dataclass(frozen=True)
class ComputeRow:
    """One method at one budget: means over its trials. None where no trial has the number.

    The last stage is the one that is scored. Everything before it is pre-training: ``pre_steps``, ``pre_samples`` and
    ``pre_seconds`` are sums over all earlier stages, 0 without any. A stage that several trials share is trained once
    but counts in full for each of them: this is the cost of the method, not of the sweep. Features of a frozen encoder,
    which all methods share, are not counted at all.

    Attributes:
        minutes: annotation minutes.
        steps, samples: optimiser steps, and tiles seen.
        seconds, evaluate_seconds: wall time of the fit, and of predicting and counting the test slides.
        peak_memory: bytes, in the last stage.
        waiting: share of the fit spent waiting for data.
        all_steps, annotated_steps: optimiser steps over all stages, and those of them that learn from masks.
    """

    dataset: str
    method: str
    budget: str
    minutes: float
    steps: float | None
    samples: float | None
    seconds: float | None
    evaluate_seconds: float | None
    peak_memory: float | None
    waiting: float | None
    pre_steps: float
    pre_samples: float
    pre_seconds: float
    n_trials: int
    all_steps: float | None
    annotated_steps: float | None


def compute_rows(results: Sequence[TrialResult]) -> list[ComputeRow]:
    """Return one row per cell, by dataset, method and budget."""
    cells: dict[tuple[str, str, str], list[TrialResult]] = defaultdict(list)
    for result in sorted(results, key=lambda one: one.trial_id):  # so that sums do not depend on the input order
        cells[result.dataset, result.method, result.budget].append(result)
    return [_row(*key, trials) for key, trials in sorted(cells.items())]


def _row(dataset: str, method: str, budget: str, trials: Sequence[TrialResult]) -> ComputeRow:
    def mean(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return float(np.mean(there)) if there else None

    def computed(name: str) -> float | None:
        return mean([trial.compute.get(name) for trial in trials])

    def took(name: str) -> float | None:
        return mean([trial.seconds.get(name) for trial in trials])

    return ComputeRow(
        dataset=dataset,
        method=method,
        budget=budget,
        minutes=float(np.mean([trial.minutes for trial in trials])),
        steps=computed("steps"),
        samples=computed("samples"),
        seconds=took("fit"),
        evaluate_seconds=took("evaluate"),
        peak_memory=computed("peak_memory"),
        waiting=computed("waiting"),
        pre_steps=float(np.mean([_before(trial, "steps") for trial in trials])),
        pre_samples=float(np.mean([_before(trial, "samples") for trial in trials])),
        pre_seconds=float(np.mean([sum(trial.seconds[_STAGE + name] for name in stages(trial)) for trial in trials])),
        n_trials=len(trials),
        all_steps=mean([over_all_stages(trial, "steps") for trial in trials]),
        annotated_steps=mean([over_all_stages(trial, "annotated_steps") for trial in trials]),
    )


def stages(trial: TrialResult) -> list[str]:
    """Return the names of all stages but the last."""
    return sorted(name.removeprefix(_STAGE) for name in trial.seconds if name.startswith(_STAGE))


def over_all_stages(trial: TrialResult, what: str) -> float | None:
    """Return the sum of ``steps``, ``annotated_steps`` or ``samples`` over all stages; None if it was not recorded."""
    last = trial.compute.get(what)
    return None if last is None else last + _before(trial, what)


def _before(trial: TrialResult, what: str) -> float:
    return sum(trial.compute.get(f"{what}/{name}", 0.0) for name in stages(trial))
