"""Ranks against Demsar's worked example, scikit-posthocs and scipy; direction and blocks."""

import numpy as np
import pytest
import scikit_posthocs
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.errors import DataError
from tissuebench.results.stats.rank_tests import FriedmanForm, alike, critical_difference, friedman, nemenyi, ranks
from tissuebench.results.tables.ranks import rank, rankings

NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
# JMLR 7 (2006), table 6: AUC on 14 datasets. Its average ranks follow if the two .975 of voting count as 2 and 3.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.975, 0.9749], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip


def test_the_worked_example_of_demsar():
    ranked = ranks(DEMSAR)
    assert ranked.mean(0) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    untied = 12 * 14 / (4 * 5) * ((ranked.mean(0) - 2.5) ** 2).sum()
    assert untied == pytest.approx(9.28, abs=0.01)
    assert friedman(ranked, FriedmanForm.IMAN_DAVENPORT).statistic == pytest.approx(3.69, abs=0.005)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    got = rank(NAMES, DEMSAR, "miou", FriedmanForm.IMAN_DAVENPORT)
    assert [row.method for row in got.rows] == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
    assert got.friedman_p == pytest.approx(scipy.stats.f.sf(3.69, 3, 39), abs=2e-4)
    assert got.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)  # the largest distance is 1.18 < 1.25


@pytest.mark.parametrize(("n", "k", "levels"), [(14, 4, None), (9, 7, None), (20, 3, 4), (5, 2, None)])
def test_equal_to_scipy_and_scikit_posthocs(n, k, levels):
    rng = np.random.default_rng(n)
    scores = rng.random((n, k)) + np.linspace(0, 0.4, k)
    scores = np.round(scores * levels) if levels else scores
    np.testing.assert_array_equal(ranks(scores), scipy.stats.rankdata(-scores, axis=1))
    np.testing.assert_array_equal(ranks(scores, lower_is_better=True), scipy.stats.rankdata(scores, axis=1))
    found = friedman(ranks(scores))
    if k > 2:  # scipy has no test of two
        theirs = scipy.stats.friedmanchisquare(*scores.T)
        assert (found.statistic, found.p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)
    expected = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    np.testing.assert_allclose(nemenyi(ranks(scores).mean(0), n), expected, atol=1e-6)


@given(st.integers(0, 10**6), st.permutations(range(4)), st.permutations(range(6)))
@examples(20)
def test_neither_the_order_of_methods_nor_that_of_blocks_matters(seed, methods, blocks):
    scores = np.random.default_rng(seed).integers(0, 5, (6, 4)).astype(float)
    one = rank(NAMES, scores, "miou")
    two = rank([NAMES[i] for i in methods], scores[np.ix_(blocks, methods)], "miou")
    assert [row.method for row in one.rows] == [row.method for row in two.rows]
    assert [row.rank for row in one.rows] == pytest.approx([row.rank for row in two.rows])
    assert one.friedman_p == pytest.approx(two.friedman_p) and one.groups == two.groups
    np.testing.assert_allclose(one.p_nemenyi, two.p_nemenyi, atol=1e-9)
    assert sum(row.rank for row in one.rows) == pytest.approx(10)


def test_an_error_ranks_ascending():
    scores = np.array([[0.1, 0.2, 0.3]] * 4)
    assert [row.method for row in rank("abc", scores, "miou").rows] == ["c", "b", "a"]
    assert [row.method for row in rank("abc", scores, "ece").rows] == ["a", "b", "c"]


def test_groups_are_largest_and_contiguous():
    assert alike([1.0, 1.5, 2.2, 4.0, 4.1], 1.0) == [(0, 1), (1, 2), (3, 4)]
    assert alike([1.0, 1.1, 1.2], 1.0) == [(0, 2)]
    assert alike([1.0, 3.0], 1.0) == []


def test_extremes_of_friedman():
    agree = np.tile([1.0, 2.0, 3.0], (5, 1))
    assert friedman(agree, FriedmanForm.IMAN_DAVENPORT).p == 0.0
    assert friedman(agree).statistic == pytest.approx(10.0)
    assert friedman(np.full((5, 3), 2.0)).p == 1.0
    assert np.isnan(friedman(agree[:1]).p)


SKILLS = {"supervised": 0.3, "good": 0.8, "best": 2.0}


def make(make_trial, dataset, *, seeds=3, budget="masks:3p", skills=SKILLS, n_patients=8):
    return [
        make_trial(
            method,
            budget,
            seed,
            seed,
            rng=np.random.default_rng([seed, i]),
            skill=skill,
            dataset=dataset,
            n_patients=n_patients,
        )
        for i, (method, skill) in enumerate(skills.items())
        for seed in range(seeds)
    ]


DATASETS = ("one", "two", "three", "four", "five")


def test_five_datasets_are_blocks_and_only_shared_methods_stand_in_them(make_trial):
    results = [trial for name in DATASETS[:4] for trial in make(make_trial, name)]
    assert rankings(results) == []  # four cannot tell methods apart
    results += make(make_trial, "five", skills=SKILLS | {"alone": 1.0})
    results += make(make_trial, "two", budget="masks:9p")  # of one dataset only
    results.append(make_trial("full", "masks:all", dataset="one", rng=np.random.default_rng(0), n_patients=8))
    (got,) = rankings(results)
    assert (got.datasets, got.budget) == (tuple(sorted(DATASETS)), "masks:3p")
    assert [(row.method, row.rank) for row in got.rows] == [("best", 1.0), ("good", 2.0), ("supervised", 3.0)]
    assert got.friedman_p == pytest.approx(scipy.stats.friedmanchisquare([1.0] * 5, [2.0] * 5, [3.0] * 5).pvalue)
    assert got.critical_difference == pytest.approx(critical_difference(3, 5))
    assert got.groups == (("best", "good"), ("good", "supervised"))


def test_equal_methods_share_their_rank(make_trial):
    twins = [
        make_trial(m, "masks:2p", s, 0, rng=np.random.default_rng(s), dataset=name)
        for m in ("one", "two")
        for s in range(3)
        for name in DATASETS
    ]
    (got,) = rankings(twins)
    assert [row.rank for row in got.rows] == [1.5, 1.5]
    assert got.friedman_p == 1.0 and got.groups == (("one", "two"),)


def test_errors_name_the_dataset(make_trial):
    results = [trial for name in DATASETS for trial in make(make_trial, name, seeds=1)]
    with pytest.raises(DataError, match="dataset five: unknown metric 'mio': did you mean 'miou'"):
        rankings(results, metric="mio")
    assert rankings([]) == []
