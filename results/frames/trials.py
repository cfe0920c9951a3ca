"""Results of trials as DataFrames: scores of trials and patients, counts of slides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tissuebench.results.case_metrics import CASE_METRICS
from tissuebench.results.records.object_metrics import OBJECT_METRICS, SUMS, object_hausdorff, object_scores
from tissuebench.results.records.object_sums import ObjectSums
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.panel import panels

_TRIAL = dict.fromkeys(("trial_id", "dataset", "method", "budget"), "str")
_TRIAL |= {"minutes": "float64", "replicate": "int64", "seed": "int64"}


def trial_scores(results: Sequence[TrialResult]) -> pd.DataFrame:
    """Return the scores of each trial, pooled over all patients, one column per metric."""
    scores = [
        pd.DataFrame(
            cell.measures(np.ones((1, len(panel.patients))))[0], columns=[*cell.metrics, *cell.distances]
        ).assign(trial_id=cell.trial_ids)
        for panel in panels(results)
        for cell in panel.cells.values()
    ]
    return _with_trial(results, pd.concat(scores))


def patient_scores(results: Sequence[TrialResult]) -> pd.DataFrame:
    """Return the scores of each annotated test patient alone, one row per (trial, patient, metric).

    Missing if the patient has no such class. Scores of cases are left out, as they are undefined for a single patient.
    """
    scores = []
    for panel in panels(results):
        alone, patients = np.eye(len(panel.patients))[panel.annotated], np.array(panel.patients)[panel.annotated]
        for cell in panel.cells.values():
            every = [*cell.metrics, *cell.distances]
            metrics = [metric for metric in every if metric not in CASE_METRICS]
            of_cell = cell.measures(alone)[..., [every.index(metric) for metric in metrics]].swapaxes(0, 1)
            index = pd.MultiIndex.from_product(
                [cell.trial_ids, patients, metrics], names=["trial_id", "patient", "metric"]
            )
            scores.append(pd.Series(of_cell.ravel(), index, name="score").reset_index())
    return _with_trial(results, pd.concat(scores))


def slide_counts(results: Sequence[TrialResult]) -> pd.DataFrame:
    """Return the confusion counts of each test slide, one row per (trial, slide, truth, predicted) with pixels."""

    def counts(one: TrialResult) -> pd.DataFrame:
        slide, truth, predicted = np.nonzero(one.counts)
        columns = {
            "patient": np.array(one.patient_ids)[slide],
            "slide": np.array(one.slide_ids)[slide],
            "truth": np.array(one.classes)[truth],
            "predicted": np.array(one.classes)[predicted],
            "pixels": one.counts[slide, truth, predicted],
        }
        return pd.DataFrame(columns).assign(trial_id=one.trial_id)

    return _with_trial(results, pd.concat([counts(one) for one in _in_order(results)]))


def slide_objects(results: Sequence[TrialResult]) -> pd.DataFrame:
    """Return sums and scores of the objects of each test slide, one row per (trial, slide, class of objects).

    After the columns of the trial: ``patient``, ``slide``, ``class``, ``unit`` of the distances (str), then the sums of
    ``object_metrics.SUMS``, and Dice, F1, AJI and Hausdorff distance of the regions of the slide alone, as papers
    average them over images; missing without a true object. No rows if no result has objects.
    """

    def objects(one: TrialResult, of: ObjectSums) -> pd.DataFrame:
        rows = of.sums.reshape(-1, len(SUMS))
        n = len(of.classes)
        columns = {
            "patient": np.repeat(one.patient_ids, n),
            "slide": np.repeat(one.slide_ids, n),
            "class": list(of.classes) * len(one.slide_ids),
            "unit": of.unit,
            **dict(zip(SUMS, rows.T, strict=True)),
            **dict(zip(OBJECT_METRICS, object_scores(rows).T, strict=True)),
            "region_hausdorff": object_hausdorff(rows),
        }
        return pd.DataFrame(columns).assign(trial_id=one.trial_id)

    found = [objects(one, one.objects) for one in _in_order(results) if one.objects is not None]
    names = ["patient", "slide", "class", "unit", *SUMS, *OBJECT_METRICS, "region_hausdorff"]
    dtypes = dict.fromkeys(names[:4], "str") | dict.fromkeys(names[4:], "float64")
    empty = pd.DataFrame(columns=[*names, "trial_id"]).astype(dtypes | {"trial_id": "str"})
    return _with_trial(results, pd.concat(found) if found else empty)


def slide_areas(results: Sequence[TrialResult]) -> pd.DataFrame:
    """Return the predicted area of each class over the tissue of each test slide with a diagnosis.

    One row per (trial, slide, class).
    """

    def areas(one: TrialResult) -> pd.DataFrame:
        slides = np.flatnonzero((np.array(one.slide_diagnoses) != "") & one.areas.any(-1))
        slide, n = slides.repeat(len(one.classes)), len(slides)
        columns = {
            "patient": np.array(one.patient_ids)[slide],
            "slide": np.array(one.slide_ids)[slide],
            "diagnosis": np.array(one.slide_diagnoses)[slide],
            "class": list(one.classes) * n,
            "pixels": one.areas[slides].ravel(),
        }
        return pd.DataFrame(columns).assign(trial_id=one.trial_id)

    return _with_trial(results, pd.concat([areas(one) for one in _in_order(results)]))


def _in_order(results: Sequence[TrialResult]) -> list[TrialResult]:
    return sorted(results, key=lambda one: (one.dataset, one.method, one.budget, one.replicate, one.seed))


def _with_trial(results: Sequence[TrialResult], rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, in their order, with the columns of their trial in front."""
    values = [[getattr(one, name) for name in _TRIAL] for one in results]
    trials = pd.DataFrame(values, columns=list(_TRIAL)).astype(_TRIAL)
    return trials.merge(rows, on="trial_id", how="right")
