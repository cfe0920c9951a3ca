from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.errors import DataError
from tissuebench.results import metrics
from tissuebench.results.stats import bootstrap as stats
from tissuebench.results.stats import small_samples as spread


@dataclass(frozen=True)
class Counted:
    """Runs with counts (R, P, K, K), scored by mIoU and accuracy."""

    runs: tuple
    patients: tuple
    counts: np.ndarray

    def scores(self, weights):
        pooled = np.tensordot(weights, self.counts, axes=(1, 1))
        return np.stack([metrics.miou(pooled), metrics.pixel_accuracy(pooled)], -1)


def sample(rng, runs=((0, 0), (0, 1), (1, 0)), n_patients=8, k=3):
    counts = rng.integers(0, 60, (len(runs), n_patients, k, k)) + np.eye(k, dtype=int) * 80
    return Counted(tuple(runs), tuple(f"p{i}" for i in range(n_patients)), counts)


@given(st.integers(0, 2**32), st.integers(2, 12))
@examples(25)
def test_the_interval_holds_the_estimate(seed, n_patients):
    rng = np.random.default_rng(seed)
    got = stats.bootstrap(sample(rng, n_patients=n_patients), rng, 400)
    assert (got.low <= got.mean + 0.02).all() and (got.mean <= got.high + 0.02).all()
    assert (got.n_valid == 400).all()


def test_the_estimate_is_the_mean_over_runs_of_pooled_scores():
    data = sample(np.random.default_rng(0))
    got = stats.bootstrap(data, np.random.default_rng(1), 10)
    assert got.mean[0] == pytest.approx(np.mean([metrics.miou(run.sum(0)) for run in data.counts]))


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
@examples(25)
def test_order_and_duplication_of_patients_do_not_move_the_estimate(seed, shuffler):
    data = sample(np.random.default_rng(seed))
    order = list(range(8))
    shuffler.shuffle(order)
    moved = Counted(data.runs, tuple(data.patients[i] for i in order), data.counts[:, order])
    twice = Counted(data.runs, (*data.patients, *(f"{p}'" for p in data.patients)), np.tile(data.counts, (1, 2, 1, 1)))
    point = stats.bootstrap(data, np.random.default_rng(0), 2).mean
    for other in (moved, twice):
        np.testing.assert_allclose(stats.bootstrap(other, np.random.default_rng(0), 2).mean, point, rtol=1e-12)


def slow_weights(rng, runs, n_boot):
    """The runs each draw takes, one by one, from the same numbers of the generator."""
    replicates = sorted({r for r, _ in runs})
    seeds = {r: [i for i, run in enumerate(runs) if run[0] == r] for r in replicates}
    widest = max(map(len, seeds.values()))
    chosen = rng.integers(0, len(replicates), size=(n_boot, len(replicates)))
    uniform = rng.random((n_boot, len(replicates), widest))
    for b in range(n_boot):
        taken = []
        for slot, r in enumerate(chosen[b]):
            own = seeds[replicates[r]]
            taken += [own[int(uniform[b, slot, j] * len(own))] for j in range(len(own))]
        yield taken


@pytest.mark.parametrize("runs", [[(0, 0)], [(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 0), (0, 1), (0, 2), (1, 5), (2, 0)]])
def test_vectorised_equals_a_slow_loop(runs):
    data, n_boot = sample(np.random.default_rng(0), runs), 60
    scored = stats.score(data, stats.patient_weights(np.random.default_rng(7), 8, n_boot))
    mean, got = stats.run_means(scored, run_weights_after_patients(data, n_boot))
    rng = np.random.default_rng(7)
    patients = rng.integers(0, 8, size=(n_boot, 8))
    draws = np.array(
        [
            np.mean([metrics.miou(sum(data.counts[r, p] for p in patients[b])) for r in taken])
            for b, taken in enumerate(slow_weights(rng, runs, n_boot))
        ]
    )
    assert mean[0] == pytest.approx(np.mean([metrics.miou(run.sum(0)) for run in data.counts]))
    stretch = slow_reach(data, patients) / (1.959964 * draws.std())
    np.testing.assert_allclose(got[:, 0], mean[0] + stretch * (draws - mean[0]), rtol=1e-6)
    bounds = stats.bootstrap(data, np.random.default_rng(7), n_boot)
    np.testing.assert_allclose([bounds.low[0], bounds.high[0]], np.percentile(got[:, 0], [2.5, 97.5]), rtol=1e-12)


def run_weights_after_patients(data, n_boot):
    rng = np.random.default_rng(7)
    stats.patient_weights(rng, 8, n_boot)
    return stats.run_weights(rng, data.runs, n_boot)


def slow_reach(data, patients):
    """Half-width of the interval of mIoU in the letters of ``spread``, one number after the other."""
    n_patients = data.counts.shape[1]
    point = [metrics.miou(run.sum(0)) for run in data.counts]
    draws = [[metrics.miou(run[chosen].sum(0)) for run in data.counts] for chosen in patients]
    moved = np.array(draws) - point
    of_patients = n_patients / (n_patients - 1) * moved.mean(1).var()
    if len(point) == 1:
        return scipy.stats.t.ppf(0.975, n_patients - 1) * np.sqrt(of_patients)
    replicates = sorted({r for r, _ in data.runs})
    members = [[i for i, (r, _) in enumerate(data.runs) if r == own] for own in replicates]
    n, of_runs, of_both = len(members), 0.0, 0.0
    for inside in members:
        of_runs += n / (n - 1) * sum((point[i] - np.mean(point)) / len(point) for i in inside) ** 2
        apart = sum((moved[:, i] - moved.mean(1)) / len(point) for i in inside)
        of_both += n / (n - 1) * n_patients / (n_patients - 1) * apart.var()
    extra = max(of_runs - of_both, 0)
    total = of_patients + extra
    df = max(total**2 / (of_patients**2 / (n_patients - 1) + of_runs**2 / (n - 1)), 1)
    t_patients, t_runs = (scipy.stats.t.ppf(0.975, d) for d in (n_patients - 1, n - 1))
    cochran = (of_patients * t_patients + extra * t_runs) / total
    return np.sqrt(total) * (scipy.stats.t.ppf(0.975, df) + cochran) / 2


def test_draws_of_a_mean_are_a_t_interval_where_patients_are_one_number_each():
    """One run, equal sizes: the standard error of a mean, with the quantile of Student's t."""
    right = np.array([60, 70, 75, 80, 90, 95])
    counts = np.zeros((1, 6, 2, 2))
    counts[0, :, 0, 0], counts[0, :, 0, 1] = right, 100 - right
    scored = stats.score(
        Counted(((0, 0),), tuple("abcdef"), counts), stats.patient_weights(np.random.default_rng(0), 6, 20000)
    )
    half = spread.reach(scored.runs, 6, scored.point, scored.draws)[1]
    expected = scipy.stats.t.ppf(0.975, 5) * right.std(ddof=1) / 100 / np.sqrt(6)
    assert half == pytest.approx(expected, rel=0.02)


def test_replicates_without_an_interaction_are_a_t_interval():
    """All patients alike: only replicates differ, and 3 of them have 2 degrees of freedom."""
    accuracy = np.array([0.6, 0.7, 0.85])
    point, draws = accuracy[:, None], np.tile(accuracy[:, None], (50, 1, 1))
    half = spread.reach([(0, 0), (1, 0), (2, 0)], 10, point, draws)
    assert half[0] == pytest.approx(scipy.stats.t.ppf(0.975, 2) * accuracy.std(ddof=1) / np.sqrt(3))
    seeds = spread.reach([(0, 0), (0, 1), (0, 2)], 10, point, draws)  # of one replicate: they take its place
    assert seeds[0] == half[0]


def test_draws_of_a_difference_reach_from_minus_one_to_one():
    data = sample(np.random.default_rng(0))
    scored = stats.score(data, stats.patient_weights(np.random.default_rng(0), 8, 10))
    both = stats.pair(scored, scored)
    assert scored.span == (0.0, 1.0) and both.span == both.at(both.runs[:1]).span == (-1.0, 1.0)


def test_identical_methods_differ_by_exactly_nothing():
    data = sample(np.random.default_rng(0))
    got = stats.paired_difference(data, data, np.random.default_rng(0), 200)
    for ends in (got.mean, got.low, got.high):
        assert (ends == 0.0).all()


def test_pairs_are_the_common_runs_on_the_same_draws():
    rng = np.random.default_rng(0)
    a, b = sample(rng, [(0, 0), (0, 1), (1, 0)]), sample(rng, [(1, 0), (0, 0), (2, 0)])
    got = stats.paired_difference(a, b, np.random.default_rng(0), 100)
    pooled = [metrics.miou(a.counts[i].sum(0)) - metrics.miou(b.counts[j].sum(0)) for i, j in ((0, 1), (2, 0))]
    assert got.mean[0] == pytest.approx(np.mean(pooled))
    back = stats.paired_difference(b, a, np.random.default_rng(0), 100)
    np.testing.assert_allclose([back.low, back.high], [-got.high, -got.low], rtol=1e-12)
    assert stats.paired_difference(a, sample(rng, [(9, 9)]), rng, 10) is None


def test_different_patients_cannot_be_paired():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="same test patients"):
        stats.paired_difference(sample(rng), sample(rng, n_patients=9), rng, 10)


def test_one_patient_gives_no_interval():
    got = stats.bootstrap(sample(np.random.default_rng(0), n_patients=1), np.random.default_rng(0), 50)
    assert not np.isnan(got.mean).any() and np.isnan(got.low).all() and np.isnan(got.high).all()


def test_resamples_without_a_score_are_dropped():
    counts = np.zeros((1, 4, 2, 2))
    counts[0, 0] = [[8, 2], [1, 9]]  # the only patient with any pixel
    got = stats.bootstrap(Counted(((0, 0),), tuple("abcd"), counts), np.random.default_rng(0), 1000)
    assert 0.6 < got.n_valid[0] / 1000 < 0.76  # 1 - (3/4)^4 = .68
    assert got.low[1] == got.high[1] == got.mean[1] == pytest.approx(0.85)


def test_run_weights_resample_seeds_within_replicates():
    weights = stats.run_weights(np.random.default_rng(0), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)], 4000)
    assert (weights.sum(1) == 6).all()
    assert set(np.unique(weights[:, :3].sum(1))) == {0.0, 3.0, 6.0}  # whole replicates come and go
    np.testing.assert_allclose(weights.mean(0), 1.0, atol=0.08)


def test_wilcoxon():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 1, 30)
    assert stats.wilcoxon(np.append(differences, np.nan)) == pytest.approx(scipy.stats.wilcoxon(differences).pvalue)
    assert stats.wilcoxon(np.zeros(5)) == 1.0
    assert np.isnan(stats.wilcoxon(np.array([np.nan])))


def test_holm():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    got = stats.holm([0.02, float("nan"), 0.03])
    assert got[0] == got[2] == pytest.approx(0.04) and np.isnan(got[1])
    assert stats.holm([]) == []
