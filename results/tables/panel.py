"""Aligned results of one dataset: the same patients, classes and cases for every trial."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tissuebench.common.hashing import canonical_json
from tissuebench.errors import DataError
from tissuebench.results.metrics import (
    CaseCalls,
    Floats,
    area_error,
    balanced_accuracy,
    calibration_gaps,
    call_cases,
    diagnosis_areas,
    margins,
    pixel_metric_names,
    pixel_metrics,
)
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.stats.bootstrap import Run

ScalarT = TypeVar("ScalarT", np.int64, np.float64)


@dataclass(frozen=True, eq=False)
class Cases:
    """The cases of a test split: (patient, diagnosis) of slides with exactly one declared diagnosis.

    Attributes:
        patient: (C,) index into the patients.
        truth: (C,) index into the declared diagnoses.
        n_left_out: number of slides without a diagnosis or with a mixed one.
    """

    patient: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    n_left_out: int


@dataclass(frozen=True, eq=False)
class Cell:
    """All runs of one method at one budget; a ``bootstrap.Sample``.

    Attributes:
        minutes: mean over the runs (replicates of a budget may draw patients that differ in cost).
        runs: R sorted (replicate, seed).
        margins: (R, P, 7, K) pixels, summed over the slides of a patient (``metrics.margins``).
        gaps: (R, P, B) summed likewise (``metrics.calibration_gaps``).
        area_errors: (R, P) area error of each patient.
        calls: (R, C) diagnoses derived from the segmentations, or None if the dataset declares fewer than two.
        metrics: names of the last axis of ``scores``.
    """

    dataset: str
    method: str
    budget: str
    minutes: float
    runs: tuple[Run, ...]
    patients: tuple[str, ...]
    margins: Floats
    gaps: Floats
    area_errors: Floats
    cases: Cases
    calls: CaseCalls | None
    metrics: tuple[str, ...]

    def scores(self, weights: Floats) -> Floats:
        """Return all metrics of each run, pooled over patients weighted by each row of (B, P): (B, R, M)."""
        pixels = pixel_metrics(
            np.tensordot(weights, self.margins, axes=(1, 1)),
            np.tensordot(weights, self.gaps, axes=(1, 1)),
            _weighted_mean(weights, self.area_errors),
        )
        if self.calls is None:
            return pixels
        by_case = balanced_accuracy(self.calls.predicted, self.cases.truth, weights[:, self.cases.patient])
        return np.concatenate([pixels, by_case[..., None]], -1)


@dataclass(frozen=True, eq=False)
class Panel:
    """All cells of one dataset, aligned.

    Attributes:
        cells: cells by (method, budget).
        metrics: names of the scores that every cell has.
    """

    dataset: str
    classes: tuple[str, ...]
    patients: tuple[str, ...]
    cases: Cases
    metrics: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the annotated test pixels per class, the same for all cells."""
        true = next(iter(self.cells.values())).margins[0, :, 1].sum(0)
        return dict(zip(self.classes, (true / max(true.sum(), 1)).tolist(), strict=True))


def panels(results: Sequence[TrialResult]) -> list[Panel]:
    """Return one panel per dataset, sorted by name.

    Raises:
        DataError: trials of one dataset differ in split, classes, diagnoses, test patients or cases, or two of them
            are the same (method, budget, replicate, seed).
    """
    by_dataset = defaultdict(list)
    for result in results:
        by_dataset[result.dataset].append(result)
    return [_panel(name, by_dataset[name]) for name in sorted(by_dataset)]


def _panel(dataset: str, results: Sequence[TrialResult]) -> Panel:
    first = results[0]
    for result in results:
        _check_comparable(first, result)
    diagnoses = list(first.diagnoses)
    allows = np.array([[name in first.diagnoses[d] for name in first.classes] for d in diagnoses], dtype=np.bool_)
    by_cell = defaultdict(list)
    for result in results:
        by_cell[result.method, result.budget].append(result)
    patients = tuple(sorted(set(first.patient_ids)))
    cases = _cases(first, patients, diagnoses)
    with_cases = len(diagnoses) > 1 and cases.truth.size > 0
    metrics = pixel_metric_names(first.classes) + (("balanced_accuracy",) if with_cases else ())
    cells = {}
    for (method, budget), trials in sorted(by_cell.items()):
        trials.sort(key=lambda trial: (trial.replicate, trial.seed))
        for one, two in itertools.pairwise(trials):
            if (one.replicate, one.seed) == (two.replicate, two.seed):
                raise DataError(
                    f"trials {one.trial_id} and {two.trial_id} are both {dataset}, {method}, {budget}, replicate "
                    f"{one.replicate}, seed {one.seed}: make the table of one plan at a time"
                )
        calls = call_cases(np.stack([_areas(trial, patients, diagnoses, allows) for trial in trials]))
        cells[method, budget] = Cell(
            dataset=dataset,
            method=method,
            budget=budget,
            minutes=float(np.mean([trial.minutes for trial in trials])),
            runs=tuple((trial.replicate, trial.seed) for trial in trials),
            patients=patients,
            margins=margins(
                np.stack([_by_patient(trial, trial.counts, patients) for trial in trials]),
                np.stack([_by_patient(trial, trial.boundaries, patients) for trial in trials]),
            ),
            gaps=calibration_gaps(np.stack([_by_patient(trial, trial.calibration, patients) for trial in trials])),
            area_errors=area_error(np.stack([_by_patient(trial, trial.counts, patients) for trial in trials])),
            cases=cases,
            calls=calls if with_cases else None,
            metrics=metrics,
        )
    return Panel(dataset, first.classes, patients, cases, metrics, cells)


def _check_comparable(a: TrialResult, b: TrialResult) -> None:
    def slides(trial: TrialResult) -> set[tuple[str, str, str]]:
        return set(zip(trial.slide_ids, trial.patient_ids, trial.slide_diagnoses, strict=True))

    pairs = {
        "splits": (canonical_json(a.identity.get("split")), canonical_json(b.identity.get("split"))),
        "classes": (a.classes, b.classes),
        "diagnoses": (list(a.diagnoses.items()), list(b.diagnoses.items())),
        "test patients": (set(a.patient_ids), set(b.patient_ids)),
        "test slides": (slides(a), slides(b)),
    }
    for what, (left, right) in pairs.items():
        if left != right:
            raise DataError(
                f"trials {a.trial_id} and {b.trial_id} of dataset {a.dataset} have different {what} and cannot stand "
                "in one table: make the table of one plan at a time"
            )


def _weighted_mean(weights: Floats, values: Floats) -> Floats:
    """Mean over patients of ``values`` (R, P), ignoring nan, under each row of ``weights`` (B, P): (B, R)."""
    there = ~np.isnan(values)
    total, weight = weights @ np.where(there, values, 0.0).T, weights @ there.T.astype(np.float64)
    out = np.full(total.shape, np.nan)
    np.divide(total, weight, out=out, where=weight > 0)
    return out


def _by_patient(trial: TrialResult, counts: npt.NDArray[ScalarT], patients: tuple[str, ...]) -> npt.NDArray[ScalarT]:
    """Sum counts of slides (S, ...) over the slides of each patient, (P, ...)."""
    index = {name: i for i, name in enumerate(patients)}
    out = np.zeros((len(patients), *counts.shape[1:]), dtype=counts.dtype)
    np.add.at(out, [index[name] for name in trial.patient_ids], counts)
    return out


def _case_keys(trial: TrialResult, diagnoses: list[str]) -> list[tuple[str, str] | None]:
    """Return the case of each slide, or None if it has no single diagnosis."""
    pairs = zip(trial.patient_ids, trial.slide_diagnoses, strict=True)
    return [(patient, diagnosis) if diagnosis in diagnoses else None for patient, diagnosis in pairs]


def _cases(trial: TrialResult, patients: tuple[str, ...], diagnoses: list[str]) -> Cases:
    keys = _case_keys(trial, diagnoses)
    cases = sorted({key for key in keys if key is not None})
    return Cases(
        patient=np.array([patients.index(patient) for patient, _ in cases], dtype=np.int64),
        truth=np.array([diagnoses.index(diagnosis) for _, diagnosis in cases], dtype=np.int64),
        n_left_out=sum(key is None for key in keys),
    )


def _areas(
    trial: TrialResult, patients: tuple[str, ...], diagnoses: list[str], allows: npt.NDArray[np.bool_]
) -> Floats:
    """Return the predicted areas per case, (C, D); (0, 1) if there are no cases."""
    keys = _case_keys(trial, diagnoses)
    index = {key: i for i, key in enumerate(sorted({key for key in keys if key is not None}))}
    if not index:
        return np.zeros((0, 1))
    out = np.zeros((len(index), len(diagnoses)))
    chosen = [i for i, key in enumerate(keys) if key is not None]
    np.add.at(out, [index[key] for key in keys if key is not None], diagnosis_areas(trial.counts[chosen], allows))
    return out
