from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import multiclass_confusion_matrix

from tissuebench.config import EvaluationSettings
from tissuebench.datasets.store import StoreInfo
from tissuebench.datasets.store_writer import StoreWriter
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.datasets.views import LabelView
from tissuebench.evaluation import confusion, evaluate, predict_slide, shares, windows

CPU = torch.device("cpu")
COLOURS = ((240, 240, 240), (230, 150, 190), (110, 60, 160), (200, 60, 70))
SIZES = {"large": (131, 203), "small": (20, 30), "flat": (17, 150), "even": (128, 128)}


class ByColour:
    """Stands in for a method: the class of the nearest colour, pixel by pixel."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.evaluating = False

    def eval(self):
        self.evaluating = True

    def predict(self, images):
        assert images.dtype == torch.uint8
        self.shapes.append(tuple(images.shape))
        colours = torch.tensor(COLOURS).float()
        distance = (images[:, None].float() - colours[None, :, :, None, None]).square().sum(dim=2)
        return (-distance / 1000).softmax(dim=1)


class Position(ByColour):
    """Predicts how far a pixel is from the edge of its window: tells which window a pixel was taken from."""

    def predict(self, images):
        height, width = images.shape[-2:]
        y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
        depth = torch.minimum(torch.minimum(y, height - 1 - y), torch.minimum(x, width - 1 - x)).clamp(max=99)
        return torch.nn.functional.one_hot(depth, 100).permute(2, 0, 1).float().expand(len(images), -1, -1, -1)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    classes = ClassMap(tuple("abcd"), COLOURS)
    info = StoreInfo("toy", None, 32, LabelCosts())
    writer = StoreWriter(tmp_path_factory.mktemp("painted") / "store.zarr", info, classes)
    rng, truth = np.random.default_rng(2), {}
    for name, (height, width) in SIZES.items():
        truth[name] = rng.integers(0, 4, (height, width), dtype=np.uint8)
        image = np.array(COLOURS, dtype=np.uint8)[truth[name]]
        tissue = np.ones((-(-height // 16), -(-width // 16)), dtype=np.uint8)
        writer.add(name, name, (), image, truth[name], tissue)
    return writer.seal(), truth


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 96), st.data())
def test_kept_parts_are_disjoint_and_cover_the_slide(height, width, window_px, data):
    overlap_px = data.draw(st.integers(0, window_px - 1).filter(lambda o: window_px - o >= min(4, window_px)))
    counted = np.zeros((height, width), dtype=int)
    size_y, size_x = min(window_px, height), min(window_px, width)
    for window in windows(height, width, window_px, overlap_px):
        assert 0 <= window.y <= window.top <= window.bottom <= window.y + size_y <= height
        assert 0 <= window.x <= window.left <= window.right <= window.x + size_x <= width
        counted[window.top : window.bottom, window.left : window.right] += 1
    assert (counted == 1).all()


@given(st.integers(1, 600), st.integers(8, 96), st.data())
def test_the_overlap_is_cut_in_its_middle(length, window_px, data):
    overlap_px = data.draw(st.integers(0, window_px // 2))
    row = windows(1, length, window_px, overlap_px)
    for one, other in pairwise(row):
        assert one.right == other.left
        before, after = one.x + window_px - one.right, other.left - other.x
        assert abs(before - after) <= 1
        assert min(before, after) >= overlap_px // 2


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize(
    ("window", "overlap"), [(32, 0), (32, 0.5), (48, 0.3), (64, 0.11), (128, 0.5), (512, 0.25), (None, 0.25)]
)
def test_stitching_is_exact_whatever_the_windows(painted, name, window, overlap):
    store, truth = painted
    method = ByColour()
    settings = EvaluationSettings(window_px=window, overlap=overlap)
    predicted = predict_slide(method, store, store.slides[name], settings, CPU, "32-true")
    assert predicted.dtype == np.uint8
    assert np.array_equal(predicted, truth[name])
    window = window or store.info.tile_px
    height, width = SIZES[name]  # no padding is ever predicted
    assert {shape[2:] for shape in method.shapes} == {(min(window, height), min(window, width))}
    assert sum(shape[0] for shape in method.shapes) == len(windows(height, width, window, int(overlap * window)))


def test_each_pixel_comes_from_a_window_it_lies_deep_in(painted):
    store, _ = painted
    settings = EvaluationSettings(window_px=64, overlap=0.5)
    depth = predict_slide(Position(), store, store.slides["even"], settings, CPU, "32-true").astype(int)
    y, x = np.mgrid[0:128, 0:128]
    to_edge = np.minimum(np.minimum(y, 127 - y), np.minimum(x, 127 - x))
    inner = to_edge >= 16
    assert depth[inner].min() >= 15  # half the overlap, and never the rim of a window
    assert np.array_equal(depth[to_edge == 0], np.zeros((to_edge == 0).sum()))


def test_evaluate_counts_the_part_and_nothing_else(tiny_data):
    method = ByColour()
    view = LabelView.for_evaluation(tiny_data.store, tiny_data.split, "test")
    settings = EvaluationSettings(window_px=40, overlap=0.2)
    told = []
    scored = evaluate(
        method, tiny_data.store, view, settings, CPU, "32-true", progress=lambda done, total: told.append((done, total))
    )
    assert method.evaluating
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert tuple(row.slide.patient_id for row in scored) == tiny_data.split.patients("test")
    for row in scored:
        assert row.counts.sum() == 64 * 96
        assert np.array_equal(row.counts, np.diag(np.diag(row.counts)))  # colours are far apart: no error
        assert tuple(np.diag(row.counts)) == tiny_data.store.withheld.class_pixels(row.slide.slide_id)
        true, matched, predicted, right = row.boundaries.T
        assert true.sum() > 0
        assert np.array_equal(true, predicted) and np.array_equal(true, matched) and np.array_equal(true, right)
        assert row.diagnosis == tiny_data.store.withheld.diagnosis(row.slide.slide_id)


@given(st.lists(st.integers(1, 10**9), max_size=40), st.integers(1, 9))
def test_shares_are_balanced_and_every_slide_is_in_one(areas, n):
    dealt = shares(areas, n)
    assert len(dealt) == n
    assert sorted(index for share in dealt for index in share) == list(range(len(areas)))
    sums = [sum(areas[index] for index in share) for share in dealt]
    assert max(sums) - min(sums) <= max(areas, default=0)
    assert dealt == shares(areas, n)


def test_the_largest_slides_are_dealt_first():
    assert shares([1, 1, 1, 1, 4], 2) == [[4], [0, 1, 2, 3]]


@given(
    arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2, 3, 255])),
    arrays(np.uint8, (7, 9), elements=st.integers(0, 3)),
)
def test_confusion_counts(truth, predicted):
    slow = np.zeros((4, 4), dtype=np.int64)
    for true, found in zip(truth.ravel(), predicted.ravel(), strict=True):
        if true != 255:
            slow[true, found] += 1
    counts = confusion(truth, predicted, 4)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, slow)
    reference = multiclass_confusion_matrix(
        torch.from_numpy(predicted).long(), torch.from_numpy(truth).long(), num_classes=4, ignore_index=255
    )
    assert np.array_equal(counts, reference.numpy())


def test_confusion_of_many_classes_does_not_wrap():
    truth, predicted = np.full((2, 2), 199, dtype=np.uint8), np.full((2, 2), 150, dtype=np.uint8)
    counts = confusion(truth, predicted, 200)
    assert counts[199, 150] == counts.sum() == 4


def test_nothing_annotated_counts_nothing():
    assert confusion(np.full((3, 3), 255, dtype=np.uint8), np.zeros((3, 3), dtype=np.uint8), 3).sum() == 0
