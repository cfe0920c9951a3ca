"""Case-level scores against loops, scikit-learn and values by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from tissuebench.results import case_metrics as cases


def test_case_level_equals_a_loop():
    rng = np.random.default_rng(3)
    areas = rng.integers(0, 4, (40, 2)).astype(float)
    areas[7] = 0
    truth = rng.integers(0, 2, 40)
    expected = [
        0.5 if first == second else float((second > first) == bool(label))
        for (first, second), label in zip(areas.tolist(), truth, strict=True)
    ]
    found = cases.recalled(areas, truth)
    assert found.tolist() == expected and 0.5 in expected
    indices = rng.integers(0, 40, (200, 40))
    weights = np.stack([np.bincount(row, minlength=40) for row in indices]).astype(float)
    got = cases.balanced_accuracy(found[None], truth, weights)[:, 0]
    for row, value in zip(indices, got, strict=True):
        recalls = [np.mean([expected[i] for i in row if truth[i] == d]) for d in (0, 1)]
        assert value == pytest.approx(np.mean(recalls))


def test_no_diagnosis_gains_by_its_place_in_the_list():
    areas = np.array([[1.0, 5, 5], [0, 0, 0], [3, 2, 2], [4, 4, 1]])
    assert cases.recalled(areas, np.array([1, 0, 0, 2])).tolist() == [1 / 2, 1 / 3, 1, 0]
    nothing = np.zeros((2, 6, 3))
    truth = np.array([0, 0, 0, 1, 2, 2])
    for order in ([0, 1, 2], [2, 0, 1]):
        found = cases.recalled(nothing, np.array(order)[truth])
        got = cases.balanced_accuracy(found, np.array(order)[truth], np.ones((1, 6)))
        np.testing.assert_allclose(got, 1 / 3)
        np.testing.assert_allclose(cases.auc(cases.area_shares(nothing), truth, np.ones((1, 6))), 1 / 2)


def test_a_resample_without_a_diagnosis_says_nothing():
    weights, truth = np.array([[1.0, 1, 1], [2, 1, 0], [0, 0, 3]]), np.array([0, 0, 1])
    got = cases.balanced_accuracy(np.array([[1.0, 0, 1]]), truth, weights)[:, 0]
    np.testing.assert_allclose(got, [0.75, np.nan, np.nan])
    shares = np.array([[[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]])
    np.testing.assert_allclose(cases.auc(shares, truth, weights)[:, 0], [1.0, np.nan, np.nan])


def test_auc_of_one_diagnosis_is_undefined():
    shares = np.array([[[0.9, 0.1], [0.2, 0.8]]])
    assert np.isnan(cases.auc(shares, np.array([0, 0]), np.ones((3, 2)))).all()
    assert cases.auc(shares[:, :0], np.array([], dtype=np.int64), np.ones((3, 0))).shape == (3, 1)


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(9)
    truth, areas = rng.integers(0, 3, 40), rng.random((2, 40, 3))
    ours = cases.balanced_accuracy(cases.recalled(areas, truth), truth, np.ones((1, 40)))[0]
    np.testing.assert_allclose(ours, [balanced_accuracy_score(truth, one.argmax(-1)) for one in areas])


@pytest.mark.parametrize("n_diagnoses", [2, 3, 4])
def test_auc_is_that_of_scikit_learn(n_diagnoses):
    """With ties, weights and several runs; scikit-learn takes probabilities of two classes as one column."""
    rng = np.random.default_rng(n_diagnoses)
    truth = rng.permutation(np.arange(30) % n_diagnoses)
    shares = cases.area_shares(rng.integers(0, 4, (3, 30, n_diagnoses)).astype(float))
    weights = np.concatenate([np.ones((1, 30)), rng.integers(1, 4, (2, 30))])
    got = cases.auc(shares, truth, weights)
    assert got.shape == (3, 3)
    for b, weight in enumerate(weights):
        for r, one in enumerate(shares):
            each = [roc_auc_score(truth == d, one[:, d], sample_weight=weight) for d in range(n_diagnoses)]
            assert got[b, r] == pytest.approx(np.mean(each))
    if n_diagnoses == 2:
        plain = [roc_auc_score(truth, one[:, 1], sample_weight=weights[1]) for one in shares]
        np.testing.assert_allclose(got[1], plain)


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(2, 9))
def test_scores_are_shares_and_do_not_depend_on_the_order_of_diagnoses(seed, n_diagnoses, n_cases):
    rng = np.random.default_rng(seed)
    areas, truth = rng.integers(0, 3, (2, n_cases, n_diagnoses)) * 1.0, rng.integers(0, n_diagnoses, n_cases)
    weights = rng.integers(0, 3, (4, n_cases)) * 1.0
    order = rng.permutation(n_diagnoses)
    swapped, other = areas[..., np.argsort(order)], order[truth]
    for score in (
        lambda a, t: cases.balanced_accuracy(cases.recalled(a, t), t, weights),
        lambda a, t: cases.auc(cases.area_shares(a), t, weights),
    ):
        found = score(areas, truth)
        np.testing.assert_allclose(score(swapped, other), found)
        assert ((found >= 0) & (found <= 1) | np.isnan(found)).all()


def test_area_shares_of_a_case_add_up_to_one():
    shares = cases.area_shares(np.array([[[30.0, 10, 0], [0, 0, 0]]]))
    np.testing.assert_allclose(shares, [[[0.75, 0.25, 0], [1 / 3, 1 / 3, 1 / 3]]])
