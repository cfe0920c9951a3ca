"""Sums over objects against loops over pairs, values by hand and the real nuclei of DSB 2018."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.spatial.distance import cdist
from skimage.measure import label

from tissuebench.evaluation.objects import class_object_sums, object_sums, regions
from tissuebench.results.records.object_metrics import SUMS, object_hausdorff, object_scores

REAL = (
    Path(os.environ.get("TISSUEBENCH_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data" / "dsb2018_he"
)
maps = arrays(np.uint8, (9, 11), elements=st.integers(0, 4))


def sums_of(truth, predicted, pixel_size=1.0):
    return dict(zip(SUMS, object_sums(np.asarray(truth), np.asarray(predicted), pixel_size).tolist(), strict=True))


def by_loops(truth, predicted):
    """The definitions, all pairs, all pixels; at ties the object whose first pixel comes first."""

    def objects(ids):
        order = dict.fromkeys(ids[ids > 0].tolist())  # by the first pixel
        return [set(zip(*(axis.tolist() for axis in np.nonzero(ids == i)), strict=True)) for i in order]

    def hausdorff(a, b):
        distances = cdist(list(a), list(b))
        return max(distances.min(0).max(), distances.min(1).max())

    def side(own, others):
        dice, apart, partners = 0.0, 0.0, []
        for one in own:
            shared = [len(one & other) for other in others]
            k = int(np.argmax(shared)) if others and max(shared) else None
            partners.append(k)
            if k is not None:
                dice += len(one) * 2 * shared[k] / (len(one) + len(others[k]))
                apart += len(one) * hausdorff(one, others[k])
            else:
                apart += len(one) * min((hausdorff(one, other) for other in others), default=np.hypot(*truth.shape))
        return dice, apart, partners

    true, found = objects(truth), objects(predicted)
    true_dice, true_apart, _ = side(true, found)
    found_dice, found_apart, partners = side(found, true)
    hit = {
        k for one, k in zip(found, partners, strict=True) if k is not None and 2 * len(one & true[k]) >= len(true[k])
    }
    intersection, union, used = 0, 0, set()
    for one in true:
        jaccard = [len(one & other) / len(one | other) for other in found]
        if not found or max(jaccard) == 0:
            union += len(one)
            continue
        k = int(np.argmax(jaccard))
        used.add(k)
        intersection, union = intersection + len(one & found[k]), union + len(one | found[k])
    union += sum(len(other) for k, other in enumerate(found) if k not in used)
    areas = sum(map(len, true)), sum(map(len, found))
    return [
        len(true),
        len(found),
        len(hit),
        *areas,
        true_dice,
        found_dice,
        true_apart,
        found_apart,
        intersection,
        union,
    ]


@given(maps, maps)
@settings(deadline=None, max_examples=150)
def test_sums_are_those_of_loops_over_all_pairs(truth, predicted):
    """Ids of scattered pixels are objects, too: shapes with holes, parts, and many ties."""
    np.testing.assert_allclose(object_sums(truth, predicted), by_loops(truth, predicted), rtol=1e-12)


@given(maps, maps)
@settings(deadline=None, max_examples=50)
def test_regions_are_scored_as_loops_do(truth, predicted):
    ours, theirs = regions(truth > 1), regions(predicted > 1)
    np.testing.assert_allclose(object_sums(ours, theirs), by_loops(ours, theirs), rtol=1e-12)


@given(maps, maps, st.permutations([1, 2, 3, 4]), st.permutations([70, 5, 900, 41]))
@settings(deadline=None, max_examples=50)
def test_ids_do_not_matter(truth, predicted, ours, theirs):
    renamed = np.array([0, *ours])[truth], np.array([0, *theirs])[predicted]
    np.testing.assert_array_equal(object_sums(*renamed), object_sums(truth, predicted))


@given(maps)
@settings(deadline=None, max_examples=50)
def test_a_perfect_prediction_scores_one_and_is_nowhere_off(truth):
    sums = object_sums(truth, truth)
    expected = [1.0, 1.0, 1.0] if truth.any() else [np.nan] * 3
    np.testing.assert_array_equal(object_scores(sums), expected)
    np.testing.assert_array_equal(object_hausdorff(sums), 0.0 if truth.any() else np.nan)


def test_by_hand():
    """Two true objects of 10 px; one is found with 8 of its pixels and 4 others, the other is missed."""
    truth, predicted = np.zeros((6, 20), dtype=int), np.zeros((6, 20), dtype=int)
    truth[0:2, 0:5], truth[4:6, 10:15] = 1, 2
    predicted[0:2, 1:7] = 5
    sums = sums_of(truth, predicted)
    assert [sums[name] for name in ("true", "predicted", "found", "true_area", "predicted_area")] == [2, 1, 1, 20, 12]
    assert sums["true_dice"] == pytest.approx(10 * 16 / 22) and sums["predicted_dice"] == pytest.approx(12 * 16 / 22)
    # Found: 2 px too far to the right. Missed: the nearest object begins 9 columns and 4 rows away.
    assert sums["true_hausdorff"] == pytest.approx(10 * 2 + 10 * np.hypot(4, 9))
    assert sums["predicted_hausdorff"] == 12 * 2
    assert (sums["intersection"], sums["union"]) == (8, 14 + 10)
    dice, f1, aji = object_scores(np.array(list(sums.values())))
    assert dice == pytest.approx((8 / 22 + 16 / 22) / 2) and f1 == pytest.approx(2 / 3) and aji == pytest.approx(8 / 24)
    assert object_hausdorff(np.array(list(sums.values()))) == pytest.approx((1 + np.hypot(4, 9) / 2 + 2) / 2)
    quarter = object_sums(truth, predicted, 0.25)
    np.testing.assert_allclose(object_hausdorff(quarter), 0.25 * object_hausdorff(np.array(list(sums.values()))))


def test_half_of_an_object_is_found_and_less_is_not():
    truth = np.array([[1, 1, 1, 1, 0, 0]])
    assert sums_of(truth, [[3, 3, 0, 0, 0, 0]])["found"] == 1
    assert sums_of(truth, [[3, 0, 0, 0, 0, 0]])["found"] == 0
    assert sums_of(truth, [[3, 3, 7, 7, 0, 0]])["found"] == 1  # two halves are one find


def test_an_image_without_objects():
    empty, one = np.zeros((3, 4), dtype=int), np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert set(sums_of(empty, empty).values()) == {0.0}
    missed = object_sums(one, empty)
    assert object_scores(missed).tolist() == [0, 0, 0] and object_hausdorff(missed) == 5  # the diagonal
    invented = object_sums(empty, one)
    assert np.isnan(object_scores(invented)).all() and np.isnan(object_hausdorff(invented))
    pooled = object_sums(one, one) + invented  # they count against the other images
    np.testing.assert_allclose(object_scores(pooled), [0.75, 2 / 3, 0.5])
    assert object_hausdorff(pooled) == 1.25


def test_regions_are_those_of_scikit_image():
    mask = np.random.default_rng(0).random((40, 50)) < 0.4
    np.testing.assert_array_equal(regions(mask), label(mask))
    assert regions(np.eye(3, dtype=bool)).max() == 1  # corners touch


def test_only_the_classes_asked_for_and_only_where_annotated():
    truth = np.array([[0, 1, 1, 2, 255, 255]], dtype=np.uint8)
    predicted = np.array([[0, 1, 1, 1, 1, 1]], dtype=np.uint8)
    sums = class_object_sums(truth, predicted, [1], 3, 1.0)
    assert not sums[[0, 2]].any()
    assert dict(zip(SUMS, sums[1].tolist(), strict=True))["predicted_area"] == 3
    np.testing.assert_array_equal(sums[1], object_sums(truth == 1, np.array([[0, 1, 1, 1, 0, 0]])))


def test_a_class_map_as_one_object_gives_the_iou_of_the_foreground():
    """The number that the code of GenSelfDiff-HIS calls AJI."""
    rng = np.random.default_rng(0)
    truth, predicted = rng.random((2, 30, 30)) < 0.4
    aji = object_scores(object_sums(truth, predicted))[2]
    assert aji == pytest.approx((truth & predicted).sum() / (truth | predicted).sum())


def test_five_hundred_nuclei_take_less_than_a_second():
    y, x = np.mgrid[:1000, :1000]
    truth = np.where(((y % 43) - 21) ** 2 + ((x % 43) - 21) ** 2 < 81, 1, 0)
    truth = regions(truth > 0)
    assert truth.max() > 500
    moved = np.roll(truth, (4, 3), (0, 1))
    took = []
    for predicted in (moved, np.where(truth % 9 == 0, 0, moved)):
        started = time.process_time()
        object_sums(truth, predicted)
        took.append(time.process_time() - started)
    assert min(took) < 1


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/dsb2018_he")
def test_real_nuclei():
    """Against themselves, and against their own regions: what docs/protocol.md says that touching nuclei cost."""
    pooled = np.zeros(len(SUMS))
    for number, path in enumerate(sorted((REAL / "instances").glob("*.png"))):
        ids = np.asarray(Image.open(path)).astype(np.int64)
        pooled += object_sums(ids, regions(ids > 0))
        if number % 10 == 0:
            assert object_scores(object_sums(ids, ids)).tolist() == [1, 1, 1]
    assert pooled[: SUMS.index("found")].tolist() == [4550, 3336]
    np.testing.assert_allclose(object_scores(pooled), [0.81, 0.85, 0.44], atol=0.005)
