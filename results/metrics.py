"""Scores from confusion counts and boundary counts, vectorised over every leading axis.

``counts[..., truth, predicted]`` are pixels (integers, or weighted sums of them), shape (..., K, K). With
tp_c = counts[c, c], t_c = sum_j counts[c, j] (true pixels) and p_c = sum_i counts[i, c] (predicted pixels):

    IoU_c = tp_c / (t_c + p_c - tp_c)          Dice_c = 2 tp_c / (t_c + p_c)          for t_c > 0
    precision_c = tp_c / p_c                   recall_c = tp_c / t_c                  for t_c > 0
    specificity_c = (n - t_c - p_c + tp_c) / (n - t_c)         for 0 < t_c < n = sum_j t_j

Recall is also called sensitivity, and its mean over classes class accuracy. A class of the truth that is never
predicted has precision 0: it must not gain by 0 / 0. Dice is the harmonic mean of precision and recall.

``boundaries[..., c, :]`` are pixels of the boundary of class c, shape (..., K, 4): true, matched of these, predicted,
matched of these. Precision and recall are the matched shares of the predicted and of the true boundary; the boundary F1
of a class is 2 precision recall / (precision + recall), for classes with a true boundary.

``calibration[..., b, :]`` describes the pixels whose predicted class has a probability in the b-th of B equal bins:
their number, the sum of these probabilities, the number that are right. The expected calibration error (Naeini et al.,
AAAI 2015) is sum_b |sum of probabilities - right| / pixels; lower is better.

The area error of a patient is half the sum over classes of |share of pixels predicted - true|: the share of the
annotated tissue that would have to change its class for the areas to be right. It is averaged over patients, so that
errors of different patients cannot cancel out; lower is better.

Means over classes run over the classes of the truth. A class without true pixels (for the boundary F1: without a true
boundary) has no score: it is nan and left out of the means, never 0 or 1, even if it is predicted. Its false positives
are not lost, as they are missing from the classes that are there; a single one of them would otherwise weigh as much as
a class of the truth. The truth is that of the counts: what is pooled, or a patient's own.

Case-level scores are in ``results.case_metrics``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]

PIXEL_METRICS = (
    *("miou", "fwiou", "pixel_accuracy", "boundary_f1", "ece", "area_error"),
    *("precision", "recall", "specificity"),
)
"""Overall metrics of pixels: the first of ``pixel_metric_names``, whatever the classes."""


def _margins(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """True-positive, true and predicted pixels per class, each (..., K)."""
    counts = np.asarray(counts, dtype=np.float64)
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)


def ratio(above: Floats, below: Floats) -> Floats:
    """Return the quotient, nan where ``below`` is 0."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _mean_of_present(scores: Floats) -> Floats:
    """Mean over the last axis, ignoring nan; nan if nothing is left."""
    present = ~np.isnan(scores)
    return ratio(np.where(present, scores, 0.0).sum(-1), present.sum(-1).astype(np.float64))


def iou(counts: Counts) -> Floats:
    """Intersection over union per class, (..., K); nan for classes that the truth does not have.

    Examples:
        >>> counts = np.array([[3, 1], [0, 4]])  # counts[truth, predicted]
        >>> iou(counts)
        array([0.75, 0.8 ])
    """
    return _iou(*_margins(counts))


def _iou(tp: Floats, true: Floats, predicted: Floats) -> Floats:
    return np.where(true > 0, ratio(tp, true + predicted - tp), np.nan)


def dice(counts: Counts) -> Floats:
    """Dice (F1) per class, (..., K); nan for classes that the truth does not have."""
    return _dice(*_margins(counts))


def _dice(tp: Floats, true: Floats, predicted: Floats) -> Floats:
    return np.where(true > 0, ratio(2 * tp, true + predicted), np.nan)


def precision(counts: Counts) -> Floats:
    """Right share of the predicted pixels per class, (..., K); nan for classes that the truth does not have.

    Examples:
        >>> precision(np.array([[3, 1], [0, 4]]))  # counts[truth, predicted]
        array([1. , 0.8])
    """
    return _precision(*_margins(counts))


def _precision(tp: Floats, true: Floats, predicted: Floats) -> Floats:
    return np.where(true > 0, np.nan_to_num(ratio(tp, predicted)), np.nan)


def recall(counts: Counts) -> Floats:
    """Found share of the true pixels (sensitivity) per class, (..., K); nan for classes that the truth does not have.

    Examples:
        >>> recall(np.array([[3, 1], [0, 4]]))  # counts[truth, predicted]
        array([0.75, 1.  ])
    """
    tp, true, _ = _margins(counts)
    return ratio(tp, true)


def specificity(counts: Counts) -> Floats:
    """Share of the pixels of other classes that are not predicted as the class, (..., K).

    nan for classes that the truth does not have, and where it has no other.

    Examples:
        >>> specificity(np.array([[3, 1], [0, 4]]))  # counts[truth, predicted]
        array([1.  , 0.75])
    """
    return _specificity(*_margins(counts))


def _specificity(tp: Floats, true: Floats, predicted: Floats) -> Floats:
    others = true.sum(-1, keepdims=True) - true
    return np.where(true > 0, ratio(others - (predicted - tp), others), np.nan)


def miou(counts: Counts) -> Floats:
    """Mean IoU over the classes of the truth, (...); nan without pixels.

    Examples:
        >>> counts = np.array([[3, 1], [0, 4]])  # counts[truth, predicted]
        >>> round(float(miou(counts)), 4)
        0.775
    """
    return _mean_of_present(iou(counts))


def fwiou(counts: Counts) -> Floats:
    """Frequency-weighted IoU, sum_c (t_c / sum_j t_j) IoU_c, (...); nan without pixels."""
    _, true, _ = _margins(counts)
    return ratio((true * np.nan_to_num(iou(counts))).sum(-1), true.sum(-1))


def pixel_accuracy(counts: Counts) -> Floats:
    """Share of annotated pixels with the right class, (...); nan without pixels."""
    tp, true, _ = _margins(counts)
    return ratio(tp.sum(-1), true.sum(-1))


def boundary_f1(boundaries: Counts) -> Floats:
    """Boundary F1 per class, (..., K): nan without a true boundary of the class, 0 if nothing of it is matched."""
    boundaries = np.asarray(boundaries, dtype=np.float64)
    true, recalled, predicted, right = (boundaries[..., i] for i in range(4))
    precision, recall = ratio(right, predicted), ratio(recalled, true)
    f1 = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
    return np.where(true > 0, f1, np.nan)


def calibration_gaps(calibration: npt.NDArray[np.float64]) -> Floats:
    """Summed probability minus correct pixels of each bin, (..., B): additive, and all that the error depends on."""
    return np.asarray(calibration[..., 1] - calibration[..., 2], dtype=np.float64)


def area_error(counts: Counts) -> Floats:
    """Half the sum over classes of |predicted - true| shares of pixels, (...); nan without pixels."""
    _, true, predicted = _margins(counts)
    return ratio(0.5 * np.abs(predicted - true).sum(-1), true.sum(-1))


def lower_is_better(metric: str) -> bool:
    """Whether a metric is an error."""
    return metric in ("ece", "area_error")


def pixel_metric_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names along the last axis of ``pixel_metrics``."""
    per_class = ("dice", "iou", "boundary_f1", "precision", "recall", "specificity")
    return (*PIXEL_METRICS, *(f"{kind}/{name}" for kind in per_class for name in classes))


def margins(counts: Counts, boundaries: Counts) -> Floats:
    """Per-class sums that determine every pixel score, (..., 7, K).

    True-positive, true and predicted pixels, then the four columns of ``boundaries``. Additive like the counts and
    smaller than they are for more than seven classes, so intervals are computed from these.
    """
    rows = [*_margins(counts), *np.moveaxis(np.asarray(boundaries, dtype=np.float64), -1, 0)]
    return np.stack(rows, -2)


def pixel_metrics(margins: Floats, gaps: Floats, area_errors: Floats) -> Floats:
    """Every pixel score at once, (..., 9 + 6K), in the order of ``pixel_metric_names``.

    Args:
        margins: (..., 7, K) from ``margins``, summed over patients.
        gaps: (..., B) from ``calibration_gaps``, summed likewise.
        area_errors: (...), averaged over patients.
    """
    tp, true, predicted = margins[..., 0, :], margins[..., 1, :], margins[..., 2, :]
    per_class = _iou(tp, true, predicted)
    edges = boundary_f1(np.moveaxis(margins[..., 3:, :], -2, -1))
    rates = (_precision(tp, true, predicted), ratio(tp, true), _specificity(tp, true, predicted))
    n = true.sum(-1)
    whole = [
        _mean_of_present(per_class),
        ratio((true * np.nan_to_num(per_class)).sum(-1), n),
        ratio(tp.sum(-1), n),
        _mean_of_present(edges),
        ratio(np.abs(gaps).sum(-1), n),
        area_errors,
        *map(_mean_of_present, rates),
    ]
    return np.concatenate([np.stack(whole, -1), _dice(tp, true, predicted), per_class, edges, *rates], -1)
