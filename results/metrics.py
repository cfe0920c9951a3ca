"""Scores from confusion counts and boundary counts, vectorised over every leading axis.

``counts[..., truth, predicted]`` are pixels (integers, or weighted sums of them), shape (..., K, K). With
tp_c = counts[c, c], t_c = sum_j counts[c, j] (true pixels) and p_c = sum_i counts[i, c] (predicted pixels):

    IoU_c = tp_c / (t_c + p_c - tp_c)          Dice_c = 2 tp_c / (t_c + p_c)

``boundaries[..., c, :]`` are pixels of the boundary of class c, shape (..., K, 4): true, matched of these, predicted,
matched of these. Precision and recall are the matched shares of the predicted and of the true boundary; the boundary F1
of a class is 2 precision recall / (precision + recall).

``calibration[..., b, :]`` describes the pixels whose predicted class has a probability in the b-th of B equal bins:
their number, the sum of these probabilities, the number that are right. The expected calibration error (Naeini et al.,
AAAI 2015) is sum_b |sum of probabilities - right| / pixels; lower is better.

The area error of a patient is half the sum over classes of |share of pixels predicted - true|: the share of the
annotated tissue that would have to change its class for the areas to be right. It is averaged over patients, so that
errors of different patients cannot cancel out; lower is better.

A class absent from both truth and prediction has no score: it is nan and left out of the means, never 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def _margins(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """True-positive, true and predicted pixels per class, each (..., K)."""
    counts = np.asarray(counts, dtype=np.float64)
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Quotient, nan where ``below`` is 0."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _mean_of_present(scores: Floats) -> Floats:
    """Mean over the last axis, ignoring nan; nan if nothing is left."""
    present = ~np.isnan(scores)
    return _ratio(np.where(present, scores, 0.0).sum(-1), present.sum(-1).astype(np.float64))


def iou(counts: Counts) -> Floats:
    """Intersection over union per class, (..., K).

    Examples:
        >>> counts = np.array([[3, 1], [0, 4]])  # counts[truth, predicted]
        >>> iou(counts)
        array([0.75, 0.8 ])
    """
    tp, true, predicted = _margins(counts)
    return _ratio(tp, true + predicted - tp)


def dice(counts: Counts) -> Floats:
    """Dice (F1) per class, (..., K)."""
    tp, true, predicted = _margins(counts)
    return _ratio(2 * tp, true + predicted)


def miou(counts: Counts) -> Floats:
    """Mean IoU over the classes present in truth or prediction, (...).

    Examples:
        >>> counts = np.array([[3, 1], [0, 4]])  # counts[truth, predicted]
        >>> round(float(miou(counts)), 4)
        0.775
    """
    return _mean_of_present(iou(counts))


def fwiou(counts: Counts) -> Floats:
    """Frequency-weighted IoU, sum_c (t_c / sum_j t_j) IoU_c, (...); nan without pixels."""
    _, true, _ = _margins(counts)
    return _ratio((true * np.nan_to_num(iou(counts))).sum(-1), true.sum(-1))


def pixel_accuracy(counts: Counts) -> Floats:
    """Share of annotated pixels with the right class, (...); nan without pixels."""
    tp, true, _ = _margins(counts)
    return _ratio(tp.sum(-1), true.sum(-1))


def boundary_f1(boundaries: Counts) -> Floats:
    """Boundary F1 per class, (..., K): 0 where only one of truth and prediction has a boundary of the class."""
    boundaries = np.asarray(boundaries, dtype=np.float64)
    true, recalled, predicted, right = (boundaries[..., i] for i in range(4))
    precision, recall = _ratio(right, predicted), _ratio(recalled, true)
    f1 = _ratio(2 * precision * recall, precision + recall)
    return np.where((true > 0) ^ (predicted > 0) | (precision + recall == 0), 0.0, f1)


def calibration_gaps(calibration: npt.NDArray[np.float64]) -> Floats:
    """Summed probability minus correct pixels of each bin, (..., B): additive, and all that the error depends on."""
    return np.asarray(calibration[..., 1] - calibration[..., 2], dtype=np.float64)


def area_error(counts: Counts) -> Floats:
    """Half the sum over classes of |predicted - true| shares of pixels, (...); nan without pixels."""
    _, true, predicted = _margins(counts)
    return _ratio(0.5 * np.abs(predicted - true).sum(-1), true.sum(-1))


def lower_is_better(metric: str) -> bool:
    """Whether a metric is an error."""
    return metric in ("ece", "area_error")


def pixel_metric_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names along the last axis of ``pixel_metrics``."""
    per_class = [f"{kind}/{name}" for kind in ("dice", "iou", "boundary_f1") for name in classes]
    return ("miou", "fwiou", "pixel_accuracy", "boundary_f1", "ece", "area_error", *per_class)


def margins(counts: Counts, boundaries: Counts) -> Floats:
    """Per-class sums that determine every pixel score, (..., 7, K).

    True-positive, true and predicted pixels, then the four columns of ``boundaries``. Additive like the counts and
    smaller than they are for more than seven classes, so the bootstrap sums these.
    """
    rows = [*_margins(counts), *np.moveaxis(np.asarray(boundaries, dtype=np.float64), -1, 0)]
    return np.stack(rows, -2)


def pixel_metrics(margins: Floats, gaps: Floats, area_errors: Floats) -> Floats:
    """Every pixel score at once, (..., 6 + 3K), in the order of ``pixel_metric_names``.

    Args:
        margins: (..., 7, K) from ``margins``, summed over patients.
        gaps: (..., B) from ``calibration_gaps``, summed likewise.
        area_errors: (...), averaged over patients.
    """
    tp, true, predicted = margins[..., 0, :], margins[..., 1, :], margins[..., 2, :]
    per_class = _ratio(tp, true + predicted - tp)
    edges = boundary_f1(np.moveaxis(margins[..., 3:, :], -2, -1))
    n = true.sum(-1)
    whole = [
        _mean_of_present(per_class),
        _ratio((true * np.nan_to_num(per_class)).sum(-1), n),
        _ratio(tp.sum(-1), n),
        _mean_of_present(edges),
        _ratio(np.abs(gaps).sum(-1), n),
        area_errors,
    ]
    return np.concatenate([np.stack(whole, -1), _ratio(2 * tp, true + predicted), per_class, edges], -1)


@dataclass(frozen=True, eq=False)
class CaseCalls:
    """Diagnoses derived from the segmentations of the cases.

    Attributes:
        predicted: (..., C) int64, index into the declared diagnoses.
        n_ties: cases in which several diagnoses share the largest area (> 0).
        n_empty: cases in which no pixel was assigned to a class of any diagnosis.
    """

    predicted: npt.NDArray[np.int64]
    n_ties: int
    n_empty: int


def diagnosis_areas(counts: Counts, allows: npt.NDArray[np.bool_]) -> Floats:
    """Predicted area of the classes of each diagnosis, in annotated pixels, (..., D).

    Args:
        counts: (..., K, K); additive, so the area of a case is the sum over its slides.
        allows: (D, K), whether a diagnosis allows a class, over the diagnosis-dependent classes only.
    """
    _, _, predicted = _margins(counts)
    return np.asarray(predicted @ allows.T.astype(np.float64), dtype=np.float64)


def call_cases(areas: Floats) -> CaseCalls:
    """Call each case by its largest area; on a tie (or with no area at all) by the first in declared order.

    Args:
        areas: (..., C, D) pixels, summed over the slides of a case = (patient, diagnosis).
    """
    top = areas.max(-1)
    shared = (areas == top[..., None]).sum(-1) > 1
    return CaseCalls(
        predicted=areas.argmax(-1).astype(np.int64),
        n_ties=int((shared & (top > 0)).sum()),
        n_empty=int((top <= 0).sum()),
    )


def balanced_accuracy(predicted: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], weights: Floats) -> Floats:
    """Mean recall over the diagnoses that occur, for each weighting of the cases, (B, R).

    nan where the weights leave out every case of one of these diagnoses, as such a resample says nothing about it.

    Args:
        predicted: (R, C) index of the predicted diagnosis, one row per run.
        truth: (C,) index of the true diagnosis.
        weights: (B, C) weight of each case.
    """
    present = np.unique(truth)
    if present.size == 0:
        return np.full((len(weights), len(predicted)), np.nan)
    right = (predicted == truth).astype(np.float64)
    recalls = []
    for diagnosis in present:
        cases = truth == diagnosis
        chosen = weights[:, cases]
        recalls.append(_ratio(chosen @ right[:, cases].T, chosen.sum(-1)[:, None]))
    return np.asarray(np.mean(recalls, axis=0), dtype=np.float64)
