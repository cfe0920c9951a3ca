"""Aligned results of one dataset: the same patients, classes and cases for every trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tissuebench.common.hashing import canonical_json
from tissuebench.errors import DataError
from tissuebench.results.case_metrics import CASE_METRICS, area_shares, auc, balanced_accuracy, recalled
from tissuebench.results.metrics import (
    Floats,
    area_error,
    calibration_gaps,
    margins,
    pixel_metric_names,
    pixel_metrics,
    ratio,
)
from tissuebench.results.records.object_metrics import OBJECT_METRICS, object_hausdorff, object_scores, object_shares
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.stats.scored import Run

ScalarT = TypeVar("ScalarT", np.int64, np.float64)
_NAMED_AT_MOST = 6


@dataclass(frozen=True, eq=False)
class Cases:
    """The cases of a test split: (patient, diagnosis) of slides with tissue and exactly one declared diagnosis.

    Attributes:
        patient: (C,) index into the patients.
        truth: (C,) index into the declared diagnoses.
        n_undiagnosed: number of slides left out because they have no diagnosis or a mixed one.
        n_without_tissue: number of slides left out because no tissue was found on them.
    """

    patient: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    n_undiagnosed: int
    n_without_tissue: int


@dataclass(frozen=True, eq=False)
class Cell:
    """All runs of one method at one budget; a ``scored.Sample``.

    Attributes:
        minutes: mean over the runs (draws of a budget may buy patients that differ in cost).
        runs: R sorted (draw, seed), see ``run_of``.
        trial_ids: ids of the trials of these runs.
        margins: (R, P, 7, K) pixels, summed over the slides of a patient (``metrics.margins``).
        gaps: (R, P, B) summed likewise (``metrics.calibration_gaps``).
        area_errors: (R, P) area error of each patient; nan if nothing of the patient is annotated.
        areas: (R, C, D) pixels of tissue predicted as a class of each diagnosis, or None if there are no scores of
            cases.
        objects: (R, P, Q, ``len(SUMS)``) sums over the objects of each patient (``object_metrics``), or None.
        metrics: names of the last axis of ``scores``.
        distances: names of the further columns of ``measures``.
    """

    dataset: str
    method: str
    budget: str
    minutes: float
    runs: tuple[Run, ...]
    trial_ids: tuple[str, ...]
    patients: tuple[str, ...]
    margins: Floats
    gaps: Floats
    area_errors: Floats
    cases: Cases
    areas: Floats | None
    objects: Floats | None
    metrics: tuple[str, ...]
    distances: tuple[str, ...]

    def scores(self, weights: Floats) -> Floats:
        """Return all metrics of each run, pooled over patients weighted by each row of (B, P): (B, R, M)."""
        pixels = pixel_metrics(
            np.tensordot(weights, self.margins, axes=(1, 1)),
            np.tensordot(weights, self.gaps, axes=(1, 1)),
            _weighted_mean(weights, self.area_errors),
        )
        if self.objects is not None:
            of_objects = object_scores(np.tensordot(weights, self.objects, axes=(1, 1)))
            pixels = np.concatenate([pixels, _by_metric(of_objects)], -1)
        if self.areas is None:
            return pixels
        truth, of_cases = self.cases.truth, weights[:, self.cases.patient]
        by_case = (
            balanced_accuracy(recalled(self.areas, truth), truth, of_cases),
            auc(area_shares(self.areas), truth, of_cases),
        )
        return np.concatenate([pixels, np.stack(by_case, -1)], -1)

    def measures(self, weights: Floats) -> Floats:
        """Return ``scores``, then the Hausdorff distances of regions, (B, R, M + Q).

        Distances have no upper end, for which the intervals of scores do not hold: they are reported without one.
        """
        scores = self.scores(weights)
        if self.objects is None:
            return scores
        distances = object_hausdorff(np.tensordot(weights, self.objects, axes=(1, 1)))
        return np.concatenate([scores, distances], -1)

    def shares(self) -> Floats:
        """Return the share of each patient in what a metric averages over, (P, M): columns add up to 1.

        It depends on the truth alone, so all cells of a panel have the same. IoU, Dice, precision, recall and boundary
        F1 of a class: its true pixels, or the pixels of its true boundary; specificity: the true pixels of the other
        classes; their means over classes: the mean of the shares of the classes of the truth; frequency-weighted IoU,
        pixel accuracy, calibration: annotated pixels; area error: equal shares of the annotated patients; Dice and AJI
        of regions: the area of the true ones, their F1: the number of these; scores of cases: the mean over diagnoses
        of the share of their cases. A column is 0 where there is no truth at all.
        """
        true, edges = self.margins[0, :, 1], self.margins[0, :, 3]
        pixels, annotated = true.sum(-1, keepdims=True), (true.sum(-1, keepdims=True) > 0).astype(np.float64)
        of_classes, of_edges = _column_shares(true), _column_shares(edges)
        of_others = _column_shares((pixels - true) * (true.sum(0) > 0))
        columns = [_mean_share(of_classes), *[_column_shares(pixels)] * 2, _mean_share(of_edges)]
        columns += [_column_shares(pixels), _column_shares(annotated)]
        columns += [*[_mean_share(of_classes)] * 2, _mean_share(of_others)]
        columns += [of_classes, of_classes, of_edges, of_classes, of_classes, of_others]
        if self.objects is not None:
            columns.append(_column_shares(_by_metric(object_shares(self.objects[0]))))
        if self.areas is not None:
            cases = np.zeros((len(self.patients), self.areas.shape[-1]))
            np.add.at(cases, (self.cases.patient, self.cases.truth), 1.0)
            columns += [_mean_share(_column_shares(cases))] * len(CASE_METRICS)
        return np.concatenate(columns, -1)


@dataclass(frozen=True, eq=False)
class Panel:
    """All cells of one dataset, aligned.

    Attributes:
        patients: all patients of the part; some may be annotated and have no diagnosis, others the reverse.
        metrics: names of the scores that every cell has.
        cells: cells by (method, budget).
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
        true = self._true.sum(0)
        return dict(zip(self.classes, (true / max(true.sum(), 1)).tolist(), strict=True))

    @property
    def annotated(self) -> npt.NDArray[np.bool_]:
        """Whether each patient has annotated pixels, (P,), the same for all cells."""
        return np.asarray(self._true.any(-1), dtype=np.bool_)

    @property
    def n_pixel_patients(self) -> int:
        """Number of patients with annotated pixels."""
        return int(self.annotated.sum())

    @property
    def n_cases(self) -> int:
        """Number of cases."""
        return self.cases.truth.size

    @property
    def n_case_patients(self) -> int:
        """Number of patients with a case."""
        return np.unique(self.cases.patient).size

    def n_of(self, metric: str) -> int:
        """Return the number of patients that a metric is computed from."""
        return self.n_case_patients if metric in CASE_METRICS else self.n_pixel_patients

    def case_notes(self) -> list[str]:
        """Return what readers should know about the cases: those that decide nothing, and slides left out."""
        calls = [cell.areas for cell in self.cells.values() if cell.areas is not None]
        if not calls:
            return []
        largest = np.concatenate([areas.max(-1).ravel() for areas in calls])
        n_tied = np.concatenate([(areas == areas.max(-1, keepdims=True)).sum(-1).ravel() for areas in calls])
        empty = int((largest == 0).sum())
        without = np.unique(np.concatenate([self.cases.patient[(areas.max(-1) == 0).any(0)] for areas in calls]))
        ties = int((n_tied > 1).sum()) - empty
        notes = []
        if ties or empty:
            notes.append(
                f"{self.dataset}: of {largest.size} case-level diagnoses over all trials {ties} were ties and {empty} "
                f"had no diagnostic area{_named([self.patients[i] for i in without])}; they count in equal parts for "
                "each of the tied diagnoses"
            )
        if self.cases.n_undiagnosed:
            notes.append(
                f"{self.dataset}: {self.cases.n_undiagnosed} test slides with no or a mixed diagnosis are left out of "
                "the scores of cases"
            )
        if self.cases.n_without_tissue:
            notes.append(
                f"{self.dataset}: {self.cases.n_without_tissue} test slides with a diagnosis but no tissue are left "
                "out of the scores of cases"
            )
        return notes

    @property
    def _true(self) -> Floats:
        """True pixels of each patient and class, (P, K)."""
        return next(iter(self.cells.values())).margins[0, :, 1]


def panels(results: Sequence[TrialResult]) -> list[Panel]:
    """Return one panel per dataset, sorted by name.

    Raises:
        DataError: trials of one dataset differ in split, classes, diagnoses, test patients or cases, or two of them
            are the same (method, budget, draw, seed).
    """
    by_dataset = defaultdict(list)
    for result in results:
        by_dataset[result.dataset].append(result)
    return [_panel(name, by_dataset[name]) for name in sorted(by_dataset)]


def run_of(trial: TrialResult) -> Run:
    """Return draw and seed of a trial; where everything was bought, there is no draw."""
    return (None if trial.everything else trial.replicate, trial.seed)


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
    of_objects = () if first.objects is None else first.objects.classes
    metrics = pixel_metric_names(first.classes) + tuple(
        f"{kind}/{name}" for kind in OBJECT_METRICS for name in of_objects
    )
    metrics += CASE_METRICS if with_cases else ()
    unit = "" if first.objects is None else first.objects.unit
    cells = {}
    for (method, budget), trials in sorted(by_cell.items()):
        trials.sort(key=lambda trial: (trial.replicate, trial.seed))
        first_of: dict[Run, TrialResult] = {}
        for trial in trials:
            other = first_of.setdefault(run_of(trial), trial)
            if other is not trial:
                draw = "" if run_of(trial)[0] is None else f"draw {trial.replicate}, "
                raise DataError(
                    f"trials {other.trial_id} and {trial.trial_id} are both {dataset}, {method}, {budget}, {draw}seed "
                    f"{trial.seed}: make the table of one plan at a time"
                )
        cells[method, budget] = Cell(
            dataset=dataset,
            method=method,
            budget=budget,
            minutes=float(np.mean([trial.minutes for trial in trials])),
            runs=tuple(map(run_of, trials)),
            trial_ids=tuple(trial.trial_id for trial in trials),
            patients=patients,
            margins=margins(
                np.stack([_by_patient(trial, trial.counts, patients) for trial in trials]),
                np.stack([_by_patient(trial, trial.boundaries, patients) for trial in trials]),
            ),
            gaps=calibration_gaps(np.stack([_by_patient(trial, trial.calibration, patients) for trial in trials])),
            area_errors=area_error(np.stack([_by_patient(trial, trial.counts, patients) for trial in trials])),
            cases=cases,
            areas=np.stack([_areas(trial, diagnoses, allows) for trial in trials]) if with_cases else None,
            objects=_objects(trials, patients),
            metrics=metrics,
            distances=tuple(f"region_hausdorff_{unit}/{name}" for name in of_objects),
        )
    return Panel(dataset, first.classes, patients, cases, metrics, cells)


def _named(patients: Sequence[str]) -> str:
    """Return the patients in brackets, the first few of many; empty for none."""
    shown = [*patients[:_NAMED_AT_MOST], *(["..."] if len(patients) > _NAMED_AT_MOST else [])]
    return f" ({', '.join(shown)})" if shown else ""


def _check_comparable(a: TrialResult, b: TrialResult) -> None:
    def slides(trial: TrialResult) -> set[tuple[str, str, str]]:
        return set(zip(trial.slide_ids, trial.patient_ids, trial.slide_diagnoses, strict=True))

    def annotated(trial: TrialResult) -> set[str]:
        return {name for name, n in zip(trial.slide_ids, trial.counts.sum((1, 2)), strict=True) if n}

    def with_tissue(trial: TrialResult) -> set[str]:
        return {name for name, n in zip(trial.slide_ids, trial.areas.sum(1), strict=True) if n}

    def objects(trial: TrialResult) -> tuple[tuple[str, ...], str]:
        return ((), "") if trial.objects is None else (trial.objects.classes, trial.objects.unit)

    pairs = {
        "splits": (canonical_json(a.identity.get("split")), canonical_json(b.identity.get("split"))),
        "classes": (a.classes, b.classes),
        "classes of objects": (objects(a), objects(b)),
        "diagnoses": (list(a.diagnoses.items()), list(b.diagnoses.items())),
        "test patients": (set(a.patient_ids), set(b.patient_ids)),
        "test slides": (slides(a), slides(b)),
        "annotated test slides": (annotated(a), annotated(b)),
        "test slides with tissue": (with_tissue(a), with_tissue(b)),
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


def _objects(trials: Sequence[TrialResult], patients: tuple[str, ...]) -> Floats | None:
    sums = [_by_patient(one, one.objects.sums, patients) for one in trials if one.objects is not None]
    return np.stack(sums) if sums else None


def _by_metric(values: Floats) -> Floats:
    """Return scores of objects (..., Q, metrics) as columns (..., metrics * Q), as their names are ordered."""
    return values.swapaxes(-1, -2).reshape(*values.shape[:-2], -1)


def _column_shares(values: Floats) -> Floats:
    """Return the share of each patient (P, ...) in the sum over patients; 0 where the sum is."""
    return np.nan_to_num(ratio(values, values.sum(0)))


def _mean_share(shares: Floats) -> Floats:
    """Return the mean (P, 1) over the columns of shares (P, N) that have any."""
    return np.nan_to_num(ratio(shares.sum(-1, keepdims=True), np.asarray((shares.sum(0) > 0).sum(), dtype=np.float64)))


def _case_keys(trial: TrialResult, diagnoses: list[str]) -> list[tuple[str, str] | None]:
    """Return the case of each slide, or None if it has no tissue or no single diagnosis."""
    rows = zip(trial.patient_ids, trial.slide_diagnoses, trial.areas.sum(1).tolist(), strict=True)
    return [(patient, diagnosis) if diagnosis in diagnoses and tissue else None for patient, diagnosis, tissue in rows]


def _cases(trial: TrialResult, patients: tuple[str, ...], diagnoses: list[str]) -> Cases:
    keys = _case_keys(trial, diagnoses)
    cases = sorted({key for key in keys if key is not None})
    n_undiagnosed = sum(diagnosis not in diagnoses for diagnosis in trial.slide_diagnoses)
    return Cases(
        patient=np.array([patients.index(patient) for patient, _ in cases], dtype=np.int64),
        truth=np.array([diagnoses.index(diagnosis) for _, diagnosis in cases], dtype=np.int64),
        n_undiagnosed=n_undiagnosed,
        n_without_tissue=sum(key is None for key in keys) - n_undiagnosed,
    )


def _areas(trial: TrialResult, diagnoses: list[str], allows: npt.NDArray[np.bool_]) -> Floats:
    """Return the predicted area of the classes that each diagnosis allows, (C, D), summed over the slides of a case."""
    keys = _case_keys(trial, diagnoses)
    index = {key: i for i, key in enumerate(sorted({key for key in keys if key is not None}))}
    out = np.zeros((len(index), len(diagnoses)))
    chosen = [i for i, key in enumerate(keys) if key is not None]
    np.add.at(out, [index[key] for key in keys if key is not None], trial.areas[chosen] @ allows.T.astype(np.int64))
    return out
