"""A slide that is annotated in places: the rest is neither read nor written, and counts are those of doing all of it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmark.evaluation.painted import store_of, view_of
from tests.benchmark.evaluation.test_evaluate import ByColour
from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL, Tile
from tissuebench.evaluation import evaluate as module
from tissuebench.evaluation import stitching
from tissuebench.evaluation.boundaries import boundary_counts
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.evaluate import evaluate
from tissuebench.evaluation.slide_counts import calibration_bins, confusion
from tissuebench.evaluation.stitching import ImageWindows, Stitching, strips
from tissuebench.plans.schema import EvaluationSettings, Views

CPU = torch.device("cpu")


def regions(seed, height, width, n):
    """Rectangles (y, x, height, width) that may overlap and touch the edge."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        yield y, x, int(rng.integers(1, 40)), int(rng.integers(1, 40))


@examples(60)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 140), st.integers(1, 140), st.integers(0, 4), st.integers(8, 48),
    st.floats(0, 0.7), st.integers(1, 150),
)  # fmt: skip
def test_parts_cover_each_predicted_window_once_with_the_numbers_of_the_strips(
    seed, height, width, n, window_px, overlap, panel_px
):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    annotated = np.zeros((height, width), dtype=np.bool_)
    for y, x, h, w in regions(seed, height, width, n):
        annotated[y : y + h, x : x + w] = True
    how = Stitching(window_px, int(overlap * window_px), Views.NONE, CPU, "32-true")
    size = how.size(height, width)
    predicted = np.zeros((height, width), dtype=np.bool_)

    def wanted(y, x, h, w):
        return bool(annotated[y : y + h, x : x + w].any())

    for y in how.starts(height):
        for x in how.starts(width):
            if wanted(y, x, *size):
                predicted[y : y + size[0], x : x + size[1]] = True
    windows = ImageWindows(lambda y, x, h, w: image[:, y : y + h, x : x + w], how)
    seen, whole = np.zeros((height, width), dtype=int), np.zeros((height, width), dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stitching, "_PANEL_NUMBERS", 4 * size[0] * panel_px)
        patch.setattr(stitching, "_STRIP_PX", 5 * panel_px)
        for strip in strips(ByColour(), windows, height, width, 4, how, wanted):
            rows, columns = strip.classes.shape
            whole[strip.y : strip.y + rows, strip.x : strip.x + columns] = strip.confidence
            for part in strip.predicted_parts():
                rows, columns = part.classes.shape
                assert part.probabilities.shape == (4, rows, columns)
                at = np.s_[part.y : part.y + rows, part.x : part.x + columns]
                seen[at] += 1
                assert np.array_equal(whole[at], part.confidence)
                assert (part.confidence > 0).any()
    # Below a window the columns of its strip may end later than it does: never counted twice, never left out.
    assert (seen[predicted] == 1).all() and seen.max(initial=0) <= 1
    assert not whole[~predicted].any()


@pytest.mark.parametrize("in_memory", [True, False])
def test_sparse_annotations_are_counted_as_by_predicting_all_and_little_is_read(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr("tissuebench.evaluation.canvas._IN_MEMORY_PX", 10**9 if in_memory else 0)
    rng = np.random.default_rng(6)
    side = 1500
    painted = rng.integers(0, 4, (side // 10, side // 10), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    truth = np.full_like(painted, IGNORE_LABEL)
    for y, x in ((0, 0), (700, 100), (700, 1400), (1440, 1400)):
        truth[y : y + 90, x : x + 70] = rng.integers(0, 4, truth[y : y + 90, x : x + 70].shape)
    store = store_of(tmp_path, {"sparse": (painted, truth, ())})
    read, written, real = [], [], LabelCanvas.write

    def write(own, labels, y, x):
        written.append(labels.size)
        real(own, labels, y, x)

    monkeypatch.setattr(LabelCanvas, "write", write)
    area = module.CountedArea.truth
    monkeypatch.setattr(
        module.CountedArea, "truth", lambda own, y, x, h, w: (read.append((h, w)), area(own, y, x, h, w))[1]
    )
    view, settings = view_of(store), EvaluationSettings(window_px=32, overlap=0.25)
    (row,) = evaluate(ByColour(), store, view, settings, CPU, "32-true")
    counted = [h * w for h, w in read if (h, w) != (32, 32)]  # windows are looked at to see whether they are wanted
    annotated = int((truth != IGNORE_LABEL).sum())
    assert sum(written) < 5 * annotated < truth.size / 10
    assert sum(counted) - truth.size == sum(written)  # the boundaries see the truth once more, in one block
    how = Stitching.of(settings, store.info.tile_px, CPU, "32-true")
    windows = ImageWindows(partial(store.image, "sparse"), how)
    classes, said = np.zeros((side, side), np.uint8), np.zeros((side, side), np.float32)
    for strip in strips(ByColour(), windows, side, side, 4, how):  # all of it
        at = np.s_[strip.y : strip.y + strip.classes.shape[0], strip.x : strip.x + strip.classes.shape[1]]
        classes[at], said[at] = strip.classes, strip.confidence
    np.testing.assert_array_equal(view.mask(Tile("sparse", 0, 0), side, side), truth)
    np.testing.assert_array_equal(row.counts, confusion(truth, classes, 4))
    np.testing.assert_array_equal(row.calibration[:, 0], calibration_bins(truth, classes, said)[:, 0])
    np.testing.assert_allclose(row.calibration, calibration_bins(truth, classes, said), rtol=1e-6)
    np.testing.assert_array_equal(row.boundaries, boundary_counts(truth, classes, 4, settings.boundary_um))
