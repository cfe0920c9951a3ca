"""Counts with torch are those of numpy, bit for bit; here torch runs on the CPU, `make test-gpu` repeats it on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmark.evaluation.painted import store_of, view_of
from tests.benchmark.evaluation.test_evaluate import ByColour
from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation import gpu_counts, slide_counts
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.evaluate import SlideScorer, evaluate
from tissuebench.evaluation.overlays import TilePicker
from tissuebench.plans.schema import EvaluationSettings

CPU = torch.device("cpu")


@st.composite
def predictions(draw):
    """K, truth with unannotated pixels, probabilities of 1 up to 20 classes, and tissue."""
    k, height, width = draw(st.integers(1, 20)), draw(st.integers(0, 40)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.integers(0, k, (height, width), dtype=np.uint8)
    truth[rng.random(truth.shape) < draw(st.sampled_from([0, 0.3, 1]))] = IGNORE_LABEL
    logits = torch.from_numpy(rng.normal(0, draw(st.sampled_from([0, 1, 30])), (k, height, width)).astype(np.float32))
    return k, truth, logits.softmax(0), rng.random(truth.shape) < 0.5


@examples(100)
@given(predictions())
def test_counts_are_those_of_numpy_bit_for_bit(given):
    k, truth, probabilities, tissue = given
    confidence, classes = probabilities.max(dim=0)
    labels, there = classes.to(torch.uint8), torch.from_numpy(truth)
    numpys = labels.numpy(), confidence.numpy()
    np.testing.assert_array_equal(gpu_counts.confusion(there, labels, k), slide_counts.confusion(truth, numpys[0], k))
    bins = gpu_counts.calibration_bins(there, labels, confidence)
    np.testing.assert_array_equal(bins, slide_counts.calibration_bins(truth, *numpys))
    areas = gpu_counts.areas(torch.from_numpy(tissue), labels, k)
    np.testing.assert_array_equal(areas, np.bincount(numpys[0][tissue], minlength=k))
    assert bins.dtype == torch.float64 and areas.dtype == torch.int64
    of_truth = [probabilities[true, y, x] for (y, x), true in np.ndenumerate(truth) if true != IGNORE_LABEL]
    expected = -np.log(np.maximum(np.array(of_truth, dtype=np.float64), np.finfo(np.float32).eps)).sum()
    assert float(gpu_counts.log_loss(there, probabilities)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_sum_of_two_million_probabilities_does_not_depend_on_its_order():
    """The claim behind equal float64 sums: they are exact for as many pixels as a part of a slide has."""
    rng = np.random.default_rng(0)
    said = (rng.random(2**20, dtype=np.float32) * 0.01 + 0.05).astype(np.float32)
    truth, labels = np.zeros((1, said.size), np.uint8), torch.zeros((1, said.size), dtype=torch.uint8)
    expected = slide_counts.calibration_bins(truth, labels.numpy(), said[None])
    for order in (said[::-1].copy(), np.sort(said), rng.permutation(said)):
        bins = gpu_counts.calibration_bins(torch.from_numpy(truth), labels, torch.from_numpy(order)[None])
        np.testing.assert_array_equal(bins, expected)


def test_no_operation_is_refused_where_deterministic_algorithms_are_demanded():
    truth, labels = torch.zeros((3, 4), dtype=torch.uint8), torch.ones((3, 4), dtype=torch.uint8)
    torch.use_deterministic_algorithms(True)
    try:
        assert gpu_counts.confusion(truth, labels, 2).tolist() == [[0, 12], [0, 0]]
        assert gpu_counts.calibration_bins(truth, labels, torch.full((3, 4), 0.5)).sum() == 18
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_canvas_has_all_labels_once_the_writer_has_finished():
    labels = torch.arange(60, dtype=torch.uint8).view(5, 12)
    with LabelCanvas(5, 12) as canvas:
        writer = gpu_counts.CanvasWriter(canvas)
        for x in (0, 4, 8):
            writer.write(labels[:, x : x + 4], 0, x)
        writer.finish()
        assert np.array_equal(canvas.read(0, 0, 5, 12), labels.numpy())


def both_ways(monkeypatch, store, settings):
    """The counts of a store by numpy and by torch, its tiles of the lowest accuracy, and its log-losses."""
    found = []
    for by_numpy in (True, False):
        monkeypatch.setattr(slide_counts, "uses_numpy", lambda device, answer=by_numpy: answer)
        picker, view = TilePicker(store), view_of(store)
        rows = evaluate(ByColour(), store, view, settings, CPU, "32-true", picker=picker)
        scorer = SlideScorer(store, view, settings, CPU, "32-true", masks_only=True)
        for index in scorer.mine:
            scorer.score(ByColour(), index)
        found.append((rows, [(tile.name, tile.accuracy) for tile in picker.worst], scorer.pooled_scores()))
    return found


def same(one, other):
    (rows, tiles, scores), (others, other_tiles, other_scores) = one, other
    for row, twin in zip(rows, others, strict=True):
        for name in ("counts", "boundaries", "calibration", "areas", "objects"):
            np.testing.assert_array_equal(getattr(row, name), getattr(twin, name), err_msg=name)
    assert tiles == other_tiles
    assert scores == {name: pytest.approx(score, rel=1e-6) for name, score in other_scores.items()}


def test_slides_count_alike_with_both(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    painted = [rng.integers(0, 4, (70, 110), dtype=np.uint8) for _ in range(3)]
    truths = [
        rng.integers(0, 4, (70, 110), dtype=np.uint8),
        painted[1].copy(),
        np.full((70, 110), IGNORE_LABEL, np.uint8),
    ]
    truths[0][:, 60:] = IGNORE_LABEL
    diagnoses = (("A",), (), ("B",))
    store = store_of(tmp_path, dict(zip("xyz", zip(painted, truths, diagnoses, strict=True), strict=True)))
    one, other = both_ways(monkeypatch, store, EvaluationSettings(window_px=32, objects=("c",)))
    same(one, other)
    assert [int(row.counts.sum()) for row in one[0]] == [70 * 60, 70 * 110, 0]
    assert [bool(row.areas.any()) for row in one[0]] == [True, False, True]


def test_a_real_slide_counts_alike_with_both(shared_data, tmp_path, monkeypatch):
    pixels = tifffile.imread(shared_data / "wsi_small" / "CMU-1-Small-Region.svs", level=0)[:900, :1300]
    truth = np.digitize(pixels.mean(axis=2), (140, 180, 220)).astype(np.uint8)
    truth[300:500] = IGNORE_LABEL
    store = store_of(tmp_path, {"real": (np.ascontiguousarray(pixels), truth, ("A",))})
    one, other = both_ways(monkeypatch, store, EvaluationSettings(window_px=256, boundary_um=4))
    same(one, other)
    (row,) = one[0]
    assert row.counts.sum() == 700 * 1300 and row.boundaries[:, 1].all()
