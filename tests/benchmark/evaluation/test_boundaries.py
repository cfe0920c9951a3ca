"""Boundary counts: against a search of all pairs, at their ends, and where nothing is annotated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.boundaries import boundary_counts

maps = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2]))


def stripes(*widths, height=8):
    """(H, W) with classes 0, 1, ... in stripes of these widths."""
    return np.repeat(np.arange(len(widths), dtype=np.uint8), widths)[None].repeat(height, 0)


def edges_of(labels, label):
    """Boundary pixels of a class by looking at each pixel's neighbours."""
    height, width = labels.shape
    found = []
    for y, x in np.argwhere(labels == label):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        seen = {labels[v, u] for v, u in around if 0 <= v < height and 0 <= u < width} - {IGNORE_LABEL}
        if seen - {label}:
            found.append((y, x))
    return np.array(found).reshape(-1, 2)


def by_pairs(truth, predicted, n_classes, tolerance):
    clipped = np.where(truth == IGNORE_LABEL, IGNORE_LABEL, predicted)
    rows = []
    for label in range(n_classes):
        true, found = edges_of(truth, label), edges_of(clipped, label)
        squares = ((true[:, None] - found[None]) ** 2).sum(-1)  # whole numbers: exact
        near = squares <= tolerance**2 + 1e-9
        rows.append([len(true), near.any(1).sum(), len(found), near.any(0).sum()])
    return np.array(rows)


@examples(150)
@given(maps, st.randoms(use_true_random=False), st.sampled_from([0.0, 1.0, 2**0.5, 2.3, 5.0]))
def test_is_a_search_of_all_pairs(truth, random, tolerance):
    predicted = np.array([random.randint(0, 2) for _ in range(truth.size)], dtype=np.uint8).reshape(truth.shape)
    holes = np.array([random.random() < 0.2 for _ in range(truth.size)]).reshape(truth.shape)
    truth = np.where(holes, IGNORE_LABEL, truth).astype(np.uint8)
    np.testing.assert_array_equal(
        boundary_counts(truth, predicted, 3, tolerance), by_pairs(truth, predicted, 3, tolerance)
    )


def test_more_classes_than_eight():
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 19, (2, 12, 12)).astype(np.uint8)
    np.testing.assert_array_equal(boundary_counts(truth, predicted, 19, 2.0), by_pairs(truth, predicted, 19, 2.0))


@pytest.mark.parametrize(("tolerance", "matched"), [(2.9, 0), (3.0, 8)])
def test_a_shifted_boundary_is_found_from_its_shift_on(tolerance, matched):
    counts = boundary_counts(stripes(10, 10), stripes(13, 7), 2, tolerance)
    assert counts.tolist() == [[8, matched, 8, matched]] * 2


def test_swapping_truth_and_prediction_swaps_the_columns():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 3, (2, 30, 30)).astype(np.uint8)
    np.testing.assert_array_equal(
        boundary_counts(one, other, 3, 1.0), boundary_counts(other, one, 3, 1.0)[:, [2, 3, 0, 1]]
    )


def test_edges_of_slide_and_annotation_are_no_boundaries():
    whole = np.zeros((6, 6), np.uint8)
    assert not boundary_counts(whole, whole, 2, 1.0).any()
    part = whole.copy()
    part[:, 3:] = IGNORE_LABEL
    predicted = stripes(3, 3, height=6)  # its boundary lies where the annotation ends
    assert not boundary_counts(part, predicted, 2, 1.0).any()


def test_a_boundary_of_another_class_matches_nothing():
    truth, predicted = stripes(4, 4), stripes(4, 4)
    predicted[predicted == 1] = 2
    assert boundary_counts(truth, predicted, 3, 2.0).tolist() == [[8, 8, 8, 8], [8, 0, 0, 0], [0, 0, 8, 0]]


def test_nothing_annotated_counts_nothing():
    nothing = np.full((5, 5), IGNORE_LABEL, np.uint8)
    assert not boundary_counts(nothing, stripes(2, 3, height=5), 2, 1.0).any()
