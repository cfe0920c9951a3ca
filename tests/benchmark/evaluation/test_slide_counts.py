"""Counts of slides as a torchmetrics Metric: the same numbers as torchmetrics' own, by slide and pooled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix, MulticlassJaccardIndex

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.slide_counts import SlideCounts, summed_log_loss
from tissuebench.results.records.trial_result import CALIBRATION_BINS

K, N = 4, 3


@pytest.fixture
def parts():
    """Two parts of each of three slides: slide, truth and probabilities."""
    rng = np.random.default_rng(5)
    made = []
    for slide in (0, 1, 2, 0, 2, 1):
        logits = torch.from_numpy(rng.normal(size=(K, 9, 17)).astype(np.float32)) * 3
        truth = rng.integers(0, K, size=(9, 17)).astype(np.uint8)
        truth[rng.random(truth.shape) < 0.3] = IGNORE_LABEL
        made.append((slide, truth, logits.softmax(dim=0)))
    return made


def counted(parts):
    counts = SlideCounts(N, K)
    for slide, truth, probabilities in parts:
        confidence, classes = probabilities.max(dim=0)
        counts.compare(slide, truth, classes.to(torch.uint8).numpy(), confidence.numpy())
        counts.update(slide, log_loss=summed_log_loss(truth, probabilities), seconds=0.5)
    return counts


def joined(parts):
    truth = torch.cat([torch.from_numpy(truth).long().flatten() for _, truth, _ in parts])
    return truth, torch.cat([probabilities.flatten(1).T for _, _, probabilities in parts])


def test_confusion_is_that_of_torchmetrics_for_every_slide(parts):
    total = counted(parts).total()
    for slide in range(N):
        truth, probabilities = joined([part for part in parts if part[0] == slide])
        theirs = MulticlassConfusionMatrix(K, ignore_index=IGNORE_LABEL)(probabilities.argmax(dim=1), truth)
        np.testing.assert_array_equal(total.confusion[slide], theirs.numpy())
    assert total.seconds.tolist() == [1.0] * N


def test_pooled_scores_are_those_of_torchmetrics_and_sklearn(parts):
    scores = {name: float(score) for name, score in counted(parts).compute().items()}
    truth, probabilities = joined(parts)
    shown = truth != IGNORE_LABEL
    iou = MulticlassJaccardIndex(K, average="macro", ignore_index=IGNORE_LABEL)
    assert scores["miou"] == pytest.approx(float(iou(probabilities.argmax(dim=1), truth)))
    error = MulticlassCalibrationError(K, n_bins=CALIBRATION_BINS, ignore_index=IGNORE_LABEL)
    assert scores["ece"] == pytest.approx(float(error(probabilities, truth)), abs=1e-6)
    rows = probabilities[shown].double()
    expected = log_loss(truth[shown], rows / rows.sum(dim=1, keepdim=True), labels=range(K))
    assert scores["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_true_class_of_probability_0_has_a_finite_loss():
    probabilities = torch.tensor([1.0, 0.0])[:, None, None]
    loss = summed_log_loss(np.array([[1]], dtype=np.uint8), probabilities)
    assert loss == pytest.approx(-np.log(np.finfo(np.float32).eps))
    assert summed_log_loss(np.array([[IGNORE_LABEL]], dtype=np.uint8), probabilities) == 0


def test_reset_begins_anew(parts):
    counts = counted(parts)
    counts.reset()
    assert not counts.total().confusion.any()
