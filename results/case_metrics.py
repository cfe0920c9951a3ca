"""Case-level scores: the diagnosis of each case, derived from the areas that a segmentation predicts.

``areas[..., c, d]`` is the predicted area of the classes that diagnosis d allows, over the tissue of case c, in pixels,
shape (..., C, D). A case is called by its largest area. Where several diagnoses share the largest area (or a case has
no such area at all: then all of them do), each is called in equal parts, so that no diagnosis gains by its place in a
list. The area share of a diagnosis, area_d / sum of the areas, ranks the cases for the AUC.

Both scores are means over the diagnoses that occur, so a common diagnosis weighs no more than a rare one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tissuebench.results.metrics import Floats, ratio

CASE_METRICS = ("balanced_accuracy", "auc")
"""Metrics of cases, in the order of ``case_metrics``; undefined for a single patient."""


def recalled(areas: Floats, truth: npt.NDArray[np.int64]) -> Floats:
    """Return the part of each case that is called by its true diagnosis, (..., C): 1, 0, or 1/n in a tie of n.

    Args:
        areas: (..., C, D) pixels.
        truth: (C,) index of the true diagnosis.
    """
    largest = areas == areas.max(-1, keepdims=True)
    of_truth = np.take_along_axis(largest, np.broadcast_to(truth[:, None], (*areas.shape[:-1], 1)), -1)[..., 0]
    return np.asarray(of_truth / largest.sum(-1), dtype=np.float64)


def area_shares(areas: Floats) -> Floats:
    """Return the share of each diagnosis in the area of all, (..., C, D); equal shares without any area.

    Examples:
        >>> area_shares(np.array([[30.0, 10.0], [0.0, 0.0]]))
        array([[0.75, 0.25],
               [0.5 , 0.5 ]])
    """
    total = areas.sum(-1, keepdims=True)
    return np.where(total > 0, areas / np.where(total > 0, total, 1.0), 1.0 / areas.shape[-1])


def balanced_accuracy(recalled: Floats, truth: npt.NDArray[np.int64], weights: Floats) -> Floats:
    """Mean recall over the diagnoses that occur, for each weighting of the cases, (B, R).

    nan where the weights leave out every case of one of these diagnoses, which then say nothing about it.

    Args:
        recalled: (R, C) from ``recalled``, one row per run.
        truth: (C,) index of the true diagnosis.
        weights: (B, C) weight of each case.

    Examples:
        >>> truth = np.array([0, 0, 1])
        >>> balanced_accuracy(np.array([[1.0, 0.0, 1.0]]), truth, np.ones((1, 3)))
        array([[0.75]])
    """
    recalls = []
    for diagnosis in np.unique(truth):
        cases = truth == diagnosis
        chosen = weights[:, cases]
        recalls.append(ratio(chosen @ recalled[:, cases].T, chosen.sum(-1)[:, None]))
    return _mean(recalls, (len(weights), len(recalled)))


def auc(shares: Floats, truth: npt.NDArray[np.int64], weights: Floats) -> Floats:
    """Area under the ROC curve of each diagnosis against the others, averaged over those that occur, (B, R).

    The probability that a case of the diagnosis has the larger share of it than another case has; ties count one half
    (Hanley and McNeil, Radiology 1982). Of two diagnoses both have the same AUC. nan with a single diagnosis, and where
    the weights leave out every case of one that occurs.

    Args:
        shares: (R, C, D) from ``area_shares``, one entry per run.
        truth: (C,) index of the true diagnosis.
        weights: (B, C) weight of each case.

    Examples:
        >>> shares = np.array([[[0.9, 0.1], [0.4, 0.6], [0.6, 0.4]]])
        >>> auc(shares, np.array([0, 0, 1]), np.ones((1, 3)))
        array([[0.5]])
    """
    there = np.unique(truth)
    means = []
    for diagnosis in there:
        own, others = weights * (truth == diagnosis), weights * (truth != diagnosis)
        pairs = own.sum(-1) * others.sum(-1)
        means.append(np.stack([ratio(_won(run[:, diagnosis], own, others), pairs) for run in shares], -1))
    return _mean(means, (len(weights), len(shares)))


def _won(values: Floats, own: Floats, others: Floats) -> Floats:
    """Weight of the pairs that a case of one's own wins, ties in half, (B,); sorts instead of comparing all pairs."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    ours, theirs = (np.add.reduceat(weights[:, order], starts, axis=1) for weights in (own, others))
    return np.asarray((ours * (theirs.cumsum(-1) - theirs / 2)).sum(-1), dtype=np.float64)


def _mean(scores: list[Floats], shape: tuple[int, int]) -> Floats:
    return np.asarray(np.mean(scores, axis=0), dtype=np.float64) if scores else np.full(shape, np.nan)
