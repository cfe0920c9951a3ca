"""Influences, variances and intervals against slow loops and by hand; p and interval never contradict each other."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.errors import DataError
from tissuebench.results import metrics
from tissuebench.results.stats.intervals import estimate, paired_difference, score_interval
from tissuebench.results.stats.scored import combined, common_runs, pair, score
from tissuebench.results.stats.variance import spread

DESIGNS = (
    ((0, 0),),
    ((0, 0), (1, 1), (2, 2)),
    ((None, 0), (None, 1), (None, 2)),
    ((0, 0), (0, 1), (1, 0), (1, 1)),
    ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 2)),
)


@dataclass(frozen=True)
class Counted:
    """Runs with counts (R, P, K, K), scored by mIoU and accuracy."""

    runs: tuple
    patients: tuple
    counts: np.ndarray

    def scores(self, weights):
        pooled = np.tensordot(weights, self.counts, axes=(1, 1))
        return np.stack([metrics.miou(pooled), metrics.pixel_accuracy(pooled)], -1)

    def shares(self):
        true = self.counts[0].sum(-1)  # (P, K)
        return np.stack([(true / true.sum(0)).mean(1), true.sum(1) / true.sum()], -1)


def sample(seed, runs=DESIGNS[1], n_patients=8, k=3, right=80, method=0):
    """Runs of a method; methods and runs differ in what they predict, never in the truth."""
    rng = np.random.default_rng([seed, 0, method])
    truth = np.random.default_rng([seed, 1]).integers(50, 300, (n_patients, k))
    counts = np.stack(
        [
            [[rng.multinomial(truth[p, c], _shares(rng, k, c, right)) for c in range(k)] for p in range(n_patients)]
            for _ in runs
        ]
    )
    return Counted(tuple(runs), tuple(f"p{i}" for i in range(n_patients)), counts)


def _shares(rng, k, c, right):
    shares = rng.random(k) * 10 + right * np.eye(k)[c]
    return shares / shares.sum()


def test_influences_are_those_of_a_slow_loop():
    data = sample(0)
    found = score(data)
    for p in range(len(data.patients)):
        half = data.counts.astype(float).copy()
        half[:, p] /= 2
        for r in range(len(data.runs)):
            change = 2 * (metrics.miou(data.counts[r].sum(0)) - metrics.miou(half[r].sum(0)))
            assert found.influence[p, r, 0] == pytest.approx(change)
    assert found.mean[0] == pytest.approx(np.mean([metrics.miou(run.sum(0)) for run in data.counts]))


@dataclass(frozen=True)
class Plain:
    """Means over patients of values (R, P, M), all patients alike."""

    runs: tuple
    values: np.ndarray

    @property
    def patients(self):
        return tuple(map(str, range(self.values.shape[1])))

    def scores(self, weights):
        return np.einsum("bp,rpm->brm", weights, self.values) / weights.sum(1)[:, None, None]

    def shares(self):
        return np.full(self.values.shape[1:], 1 / self.values.shape[1])


def test_one_run_of_equal_patients_is_a_t_test():
    values = 0.5 + 0.05 * np.random.default_rng(0).standard_normal((1, 400, 1))
    found = estimate(pair(score(Plain(((0, 0),), values)), score(Plain(((0, 0),), np.full_like(values, 0.45)))))
    test = scipy.stats.ttest_1samp(values[0, :, 0] - 0.45, 0)
    ends = test.confidence_interval()
    assert found.p[0] == pytest.approx(test.pvalue, rel=0.05, abs=1e-12)
    assert (found.low[0], found.high[0]) == pytest.approx((ends.low, ends.high), abs=2e-4)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_variances_of_crossed_draws_and_seeds_are_those_of_the_analysis_of_variance(n_seeds):
    rng = np.random.default_rng(n_seeds)
    x = rng.normal(0.5, 0.05, (4, n_seeds))
    runs = tuple((draw, seed) for draw in range(4) for seed in range(n_seeds))
    values = np.repeat(x.reshape(-1, 1, 1), 5, axis=1)  # patients add nothing
    found = spread(score(Plain(runs, values)))
    rows, columns = x.mean(1), x.mean(0)
    assert found.parts[1, 0] == pytest.approx(rows.var(ddof=1) / 4)
    if n_seeds > 1:
        residual = x - rows[:, None] - columns + x.mean()
        both = (residual**2).sum() / (3 * (n_seeds - 1)) / x.size
        seeds = columns.var(ddof=1) / n_seeds
        assert found.parts[2, 0] == pytest.approx(seeds)
        taken = min(both, seeds, rows.var(ddof=1) / 4)
        assert found.total[0] == pytest.approx(found.parts[:, 0].sum() - taken)


def test_seeds_within_draws_and_draws_of_one_seed_each_are_the_same_model():
    values = np.random.default_rng(0).random((4, 6, 1))
    within = spread(score(Plain(((0, 0), (0, 1), (1, 2), (1, 3)), values)))
    means = values.mean((1, 2)).reshape(2, 2).mean(1)
    assert within.parts[1, 0] == pytest.approx(means.var(ddof=1) / 2) and within.parts[2, 0] == 0
    each = spread(score(Plain(((0, 0), (1, 1), (2, 2), (3, 3)), values)))
    swapped = spread(score(Plain(((None, 0), (None, 1), (None, 2), (None, 3)), values)))
    assert each.total == pytest.approx(swapped.total)


@given(st.integers(0, 2**32), st.sampled_from(DESIGNS), st.integers(2, 12))
@examples(60)
def test_runs_that_agree_by_chance_do_not_hide_what_patients_leave_open(seed, runs, n_patients):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (len(runs), n_patients, 1)).astype(float)
    scored = score(Plain(runs, values))
    over_patients = (scored.influence.mean(1) ** 2).sum(0)
    assert (spread(scored).total >= (n_patients - 1) / n_patients * over_patients - 1e-12).all()


@given(st.integers(0, 2**32), st.sampled_from(DESIGNS), st.integers(1, 12), st.integers(0, 400))
@examples(60)
def test_intervals_hold_the_estimate_within_bounds_and_have_a_width(seed, runs, n_patients, right):
    found = score_interval(sample(seed, runs, n_patients, right=right))
    assert (found.low >= 0).all() and (found.high <= 1).all()
    assert (found.low <= found.mean).all() and (found.mean <= found.high).all()
    assert (found.high - found.low > 1e-4).all()


@given(st.integers(0, 2**32), st.sampled_from(DESIGNS), st.integers(2, 12), st.integers(60, 90))
@examples(60)
def test_p_is_below_5_percent_exactly_where_the_interval_leaves_out_0(seed, runs, n_patients, right):
    a, b = sample(seed, runs, n_patients), sample(seed, runs, n_patients, right=right, method=1)
    found = paired_difference(a, b)
    assert ((found.p < 0.05) == ((found.low > 0) | (found.high < 0))).all()
    assert (found.high > found.low).all() and (found.p <= 1).all()
    back = paired_difference(b, a)
    np.testing.assert_allclose(
        [-back.mean, -back.high, -back.low, back.p], [found.mean, found.low, found.high, found.p]
    )


@given(st.integers(0, 1000), st.permutations(range(8)))
@examples(25)
def test_the_order_of_patients_and_runs_does_not_matter(seed, order):
    data = sample(seed, DESIGNS[4])
    moved = Counted(data.runs[::-1], tuple(data.patients[i] for i in order), data.counts[::-1][:, order])
    one, two = score_interval(data), score_interval(moved)
    np.testing.assert_allclose([one.mean, one.low, one.high], [two.mean, two.low, two.high], rtol=1e-9)


def test_all_right_and_all_wrong_are_the_intervals_of_wilson():
    n, runs = 16, ((0, 0), (1, 1), (2, 2))
    for value in (0.0, 1.0):
        found = score_interval(Plain(runs, np.full((3, n, 1), value)))
        t = scipy.stats.t.ppf(0.975, n - 1)
        reach = t**2 / n / (1 + t**2 / n)
        assert found.mean[0] == value
        assert (found.low[0], found.high[0]) == pytest.approx((0.0, reach) if value == 0 else (1 - reach, 1.0))
        assert 0.15 < reach < 0.25


def test_methods_without_a_difference_differ_by_what_16_patients_leave_open():
    values = np.random.default_rng(0).random((3, 16, 1))
    a = Plain(((0, 0), (1, 1), (2, 2)), values)
    found = paired_difference(a, a)
    assert found.mean[0] == 0 and found.p[0] == 1
    assert found.high[0] == -found.low[0] == pytest.approx(scipy.stats.t.ppf(0.975, 15) * np.sqrt(2) / 18)


def test_a_class_of_one_patient_says_next_to_nothing():
    @dataclass(frozen=True)
    class Single(Plain):
        def scores(self, weights):
            return self.values[None, :, 0] * (weights[:, :1] > 0)[..., None]

        def shares(self):
            return np.eye(self.values.shape[1])[:, :1]

    a, b = (Single(((0, 0),), np.full((1, 8, 1), value)) for value in (0.9, 0.2))
    found, difference = score_interval(a), paired_difference(a, b)
    assert found.low[0] < 0.3 and difference.low[0] < 0 < difference.high[0]


def test_runs_in_common():
    assert common_runs([[(0, 0), (1, 1)], [(1, 1), (2, 2)]]) == ((1, 1),)
    assert common_runs([[(0, 0), (1, 0), (2, 1)], [(None, 0)]]) == ((0, 0), (1, 0))
    assert common_runs([[(None, 0), (None, 2)], [(None, 2)]]) == ((None, 2),)
    assert common_runs([[(0, 0)], [(1, 0)]]) == ()


def test_a_method_without_draws_is_paired_with_every_draw():
    drawn = sample(0, ((0, 0), (0, 1), (1, 0), (1, 1)))
    everything = sample(0, ((None, 0), (None, 1)))
    both = pair(score(drawn), score(everything))
    assert both.runs == drawn.runs
    points = score(everything).point
    np.testing.assert_allclose(both.point, score(drawn).point - points[[0, 1, 0, 1]])


def test_other_patients_cannot_be_paired():
    with pytest.raises(DataError, match="same test patients"):
        paired_difference(sample(0, n_patients=4), sample(0, n_patients=5))
    assert paired_difference(sample(0, ((0, 0),)), sample(0, ((1, 0),))) is None


def test_a_weighted_mean_of_scores_is_a_score():
    a, b = score(sample(0)), score(sample(0, method=1))
    found = estimate(combined([a, b], [0.25, 0.75]))
    assert found.mean == pytest.approx(0.25 * a.mean + 0.75 * b.mean) and np.isnan(found.p).all()
    assert (found.low > 0).all() and (found.high < 1).all()


def test_a_score_that_does_not_exist_has_no_interval():
    values = np.stack([np.full((1, 4), np.nan), np.full((1, 4), 0.5)], -1)
    found = score_interval(Plain(((0, 0),), values))
    assert np.isnan([found.mean[0], found.low[0], found.high[0]]).all() and not np.isnan(found.low[1])
    assert np.isnan(paired_difference(Plain(((0, 0),), values), Plain(((0, 0),), values)).p[0])


def test_more_patients_and_runs_narrow_the_interval():
    def width(n_runs, n_patients):
        rng = np.random.default_rng(0)
        values = np.clip(0.6 + 0.1 * rng.standard_normal((n_runs, n_patients, 1)), 0, 1)
        found = score_interval(Plain(tuple((r, r) for r in range(n_runs)), values))
        return found.high[0] - found.low[0]

    assert width(5, 64) < width(5, 16) and width(10, 16) < width(3, 16)
