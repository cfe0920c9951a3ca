from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from tissuebench.datasets.labels.draw_budget import annotated_tiles, taggable_tiles
from tissuebench.datasets.labels.open_tiles import Opened
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.store.tissue import tissue_pixels
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, LabelCosts, Supervision, Tile
from tissuebench.evaluation.boundaries import boundary_counts
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.evaluate import boundaries_by_blocks, evaluate, shares, stored_objects
from tissuebench.evaluation.objects import object_sums, regions
from tissuebench.evaluation.overlays import TilePicker
from tissuebench.evaluation.slide_counts import calibration_bins, confusion
from tissuebench.evaluation.stitching import ImageWindows, Stitching, strips
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.results.records.object_metrics import object_scores

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


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize(
    ("window", "overlap"), [(32, 0), (32, 0.5), (48, 0.3), (64, 0.11), (128, 0.5), (512, 0.25), (None, 0.25)]
)
def test_stitching_is_exact_whatever_the_windows(painted, name, window, overlap):
    store, truth = painted
    method = ByColour()
    height, width = SIZES[name]
    how = Stitching.of(EvaluationSettings(window_px=window, overlap=overlap), store.info.tile_px, CPU, "32-true")
    predicted = np.full((height, width), 255, dtype=np.uint8)
    for strip in strips(method, ImageWindows(partial(store.image, name), how), height, width, 4, how):
        rows, columns = strip.classes.shape
        predicted[strip.y : strip.y + rows, strip.x : strip.x + columns] = strip.classes
    assert np.array_equal(predicted, truth[name])
    window = window or store.info.tile_px  # no padding is ever predicted
    assert {shape[2:] for shape in method.shapes} == {(min(window, height), min(window, width))}
    assert sum(np.prod([shape[0], *shape[2:]]) for shape in method.shapes) == how.work(height, width)


def test_evaluate_counts_the_part_and_nothing_else(tiny_data):
    method = ByColour()
    view = LabelView.for_evaluation(tiny_data.store, tiny_data.split, "test")
    settings = EvaluationSettings(window_px=40, overlap=0.2)
    told, picker = [], TilePicker(tiny_data.store)
    scored = evaluate(
        method,
        tiny_data.store,
        view,
        settings,
        CPU,
        "32-true",
        progress=lambda done, total: told.append((done, total)),
        picker=picker,
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
        pixels, said, right = row.calibration.sum(0)
        assert pixels == right == 64 * 96
        assert 0.9 * pixels < said <= pixels
        assert row.seconds > 0
        tissue = tiny_data.store.tissue(row.slide.slide_id).repeat(16, 0).repeat(16, 1)
        truth = view.mask(Tile(row.slide.slide_id, 0, 0), 64, 96)
        assert 0 < tissue.sum() < tissue.size
        assert np.array_equal(row.areas, np.bincount(truth[tissue > 0], minlength=4))
        assert row.diagnosis == tiny_data.store.withheld.diagnosis(row.slide.slide_id)
    assert {tile.slide_id for tile in picker.chosen} <= {row.slide.slide_id for row in scored}
    assert len(picker.chosen) == len(picker.worst) == 3  # a tile a slide, all of them right
    assert {tile.accuracy for tile in picker.worst} == {1.0}


def test_regions_of_a_class_are_scored_where_the_settings_name_it(tiny_data):
    """All pixels are right, so every region is; a dataset without mpp measures in pixels."""
    view = LabelView.for_evaluation(tiny_data.store, tiny_data.split, "test")
    names = tiny_data.store.class_map.names
    settings = EvaluationSettings(window_px=40, overlap=0.2, objects=(names[1], "of another dataset"))
    scored = evaluate(ByColour(), tiny_data.store, view, settings, CPU, "32-true")
    kept = stored_objects(scored, tiny_data.store, settings)
    assert kept.classes == (names[1],) and kept.unit == ("px" if tiny_data.store.info.mpp is None else "um")
    for row, sums in zip(scored, kept.sums[:, 0], strict=True):
        truth = view.mask(Tile(row.slide.slide_id, 0, 0), row.slide.height, row.slide.width)
        np.testing.assert_array_equal(sums, object_sums(regions(truth == 1), regions(truth == 1)))
        assert not row.objects[[0, 2, 3]].any()
    assert kept.sums[:, 0, 0].sum() > 0
    np.testing.assert_array_equal(object_scores(kept.sums[:, 0].sum(0)), [1, 1, 1])
    plain = evaluate(ByColour(), tiny_data.store, view, EvaluationSettings(), CPU, "32-true")
    assert stored_objects(plain, tiny_data.store, EvaluationSettings()) is None


CASES = {
    "annotated": ("A", 60),
    "unannotated": ("B", 0),
    "no-diagnosis": ("", 60),
    "neither": ("", 0),
    "mixed": ("A;B", 0),
}
"""Diagnosis, and number of annotated rows."""


@pytest.fixture(scope="module")
def partly_annotated(tmp_path_factory):
    """Slides of 90 x 200 px: the first rows annotated, or nothing; tissue from column 96 on."""
    classes = ClassMap(tuple("abcd"), COLOURS, {"A": ("c",), "B": ("d",)})
    writer = StoreWriter(
        tmp_path_factory.mktemp("partly") / "store.zarr", StoreInfo("toy", None, 32, LabelCosts()), classes
    )
    rng, painted = np.random.default_rng(4), {}
    for name, (diagnosis, n_rows) in CASES.items():
        painted[name] = rng.integers(0, 4, (90, 200), dtype=np.uint8)
        truth = np.full_like(painted[name], IGNORE_LABEL)
        truth[:n_rows] = painted[name][:n_rows]
        tissue = np.zeros((6, 13), dtype=np.uint8)
        tissue[:, 6:] = 1
        image = np.array(COLOURS, dtype=np.uint8)[painted[name]]
        writer.add(name, name, tuple(filter(None, diagnosis.split(";"))), image, truth, tissue)
    return writer.seal(), painted


def _of(store, kinds=frozenset({Supervision.MASKS, Supervision.DIAGNOSIS})):
    slides = tuple(store.slides.values())
    masks = Opened(store, [slide.patient_id for slide in slides], (), annotated_tiles)
    return LabelView(store, slides, kinds, masks, Opened(store, (), (), taggable_tiles))


def test_a_case_is_predicted_over_its_tissue_and_scored_where_it_is_annotated(partly_annotated):
    store, painted = partly_annotated
    method, picker = ByColour(), TilePicker(store)
    settings = EvaluationSettings(window_px=32, overlap=0)
    found = {
        row.slide.slide_id: row for row in evaluate(method, store, _of(store), settings, CPU, "32-true", picker=picker)
    }
    for name, (_, n_rows) in CASES.items():
        row = found[name]
        assert np.array_equal(row.counts, np.diag(np.bincount(painted[name][:n_rows].ravel(), minlength=4))), name
        assert row.calibration[:, 0].sum() == 200 * n_rows
        assert (row.boundaries[:, 0].sum() > 0) == (n_rows > 0)
        case = name in ("annotated", "unannotated")
        area = np.bincount(painted[name][:, 96:].ravel(), minlength=4) if case else np.zeros(4)
        assert np.array_equal(row.areas, area), name
    assert row.areas.dtype == np.int64
    assert {tile.slide_id for tile in picker.chosen} <= {"annotated", "no-diagnosis"}


def test_each_window_is_predicted_once_and_only_if_anything_in_it_counts(partly_annotated):
    store, _ = partly_annotated
    n_windows = {}
    for name in CASES:
        method, view = ByColour(), _of(store)
        view.slides = (store.slides[name],)
        evaluate(method, store, view, EvaluationSettings(window_px=32, overlap=0), CPU, "32-true")
        n_windows[name] = sum(shape[0] for shape in method.shapes)
    # three rows of seven windows, the last of each shifted back: from row 58 and from column 168
    assert n_windows == {
        "annotated": 2 * 7 + 7, "unannotated": 3 * 4, "no-diagnosis": 3 * 7, "neither": 0, "mixed": 0,
    }  # fmt: skip


def test_a_view_that_opens_no_diagnosis_asks_for_no_tissue(partly_annotated):
    """As in the selection of a checkpoint, which looks at masks alone."""
    store, _ = partly_annotated
    view = _of(store, frozenset({Supervision.MASKS}))
    for row in evaluate(ByColour(), store, view, EvaluationSettings(), CPU, "32-true"):
        assert row.areas.sum() == 0 and row.diagnosis == ()


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
def test_tissue_pixels_are_those_of_the_enlarged_mask(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (-(-height // 16), -(-width // 16)), dtype=np.uint8)
    large = mask.repeat(16, 0).repeat(16, 1)[:height, :width] > 0
    y, x = rng.integers(0, height), rng.integers(0, width)
    found = tissue_pixels(mask, y, x, height - y, width - x)
    assert np.array_equal(found, large[y:, x:])


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


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 0, 0, 1, 2, 255])),
    st.integers(0, 2**32 - 1),
    st.floats(0, 6),
    st.integers(1, 24),
)
def test_boundaries_of_blocks_add_up_to_those_of_the_slide(truth, seed, tolerance, block_px):
    height, width = truth.shape
    predicted = np.random.default_rng(seed).choice(np.array([0, 0, 1, 2], dtype=np.uint8), truth.shape)
    whole = boundary_counts(truth, predicted, 3, tolerance)
    with LabelCanvas(height, width) as canvas:
        canvas.write(predicted, 0, 0)
        parts = boundaries_by_blocks(
            lambda y, x, h, w: truth[y : y + h, x : x + w], canvas, 3, tolerance, block_px=block_px
        )
    assert np.array_equal(parts, whole)


def test_calibration_is_that_of_torchmetrics():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4, 60, 70)) * 2
    probabilities = torch.from_numpy(logits).softmax(0)
    truth = rng.choice(np.array([0, 1, 2, 3, 255], dtype=np.uint8), (60, 70))
    confidence, predicted = probabilities.max(0)
    bins = calibration_bins(truth, predicted.numpy().astype(np.uint8), confidence.numpy().astype(np.float32))
    assert bins[:, 0].sum() == (truth != 255).sum()
    ours = np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum()
    reference = multiclass_calibration_error(
        probabilities[None].float(), torch.from_numpy(truth)[None].long(), 4, n_bins=15, norm="l1", ignore_index=255
    )
    assert ours == pytest.approx(float(reference), abs=1e-6)


def test_certainty_is_in_the_last_bin_and_nothing_annotated_in_none():
    truth = np.array([[0, 255]], dtype=np.uint8)
    bins = calibration_bins(truth, np.zeros((1, 2), np.uint8), np.ones((1, 2), np.float32))
    assert bins[-1].tolist() == [1, 1, 1] and bins.sum() == 3
