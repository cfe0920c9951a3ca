"""Simulated: how often the 95 % interval covers the truth, the p of no effect, the family-wise error of Holm.

Scores are ``patient + replicate + seed + patient x run``, normal, with shares of the variance of the mean. Simulations
stand where metrics do, so that one call gives the intervals of all of them.
"""

import itertools

import numpy as np
import pytest
import scipy.stats

from tissuebench.results.metrics import pixel_accuracy
from tissuebench.results.stats import bootstrap as stats

LOW, HIGH = 0.93, 0.97
SHARES = [  # patient, replicate, seed, patient x run
    (1.0, 0.0, 0.0, 0.0),
    (0.9, 0.05, 0.0, 0.05),
    (0.7, 0.2, 0.05, 0.05),
    (0.6, 0.4, 0.0, 0.0),
    (0.45, 0.45, 0.0, 0.1),
    (0.3, 0.6, 0.05, 0.05),
    (0.2, 0.2, 0.5, 0.1),
    (0.1, 0.9, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0),
]


def effects(rng, n_replicates, n_seeds, n_patients, shares, n):
    """(R, P, n) scores around 0, a column a simulation."""
    sizes = [(1, 1, n_patients), (n_replicates, 1, 1), (n_replicates, n_seeds, 1), (n_replicates, n_seeds, n_patients)]
    parts = [
        np.sqrt(share * np.prod(size)) * rng.standard_normal((*size, n))
        for share, size in zip(shares, sizes, strict=True)
    ]
    return sum(parts).reshape(n_replicates * n_seeds, n_patients, n)


def intervals(rng, scores, runs, n_boot=500):
    """The interval of each simulation, scores (R, P, n) averaged over patients."""
    n_runs, n_patients, n = scores.shape
    weights = stats.patient_weights(rng, n_patients, n_boot)
    draws = (weights / n_patients) @ scores.transpose(1, 0, 2).reshape(n_patients, -1)
    scored = stats.Scored(
        tuple(runs), tuple(map(str, range(n_patients))), scores.mean(1), draws.reshape(n_boot, n_runs, n),
        (-np.inf, np.inf),
    )  # fmt: skip
    return stats.interval(scored, stats.run_weights(rng, runs, n_boot))


def coverage(n_replicates, n_seeds, n_patients, shares, n=4000, chunk=200, seed=0):
    """Share of n simulations whose interval holds 0; each chunk has draws of its own."""
    rng = np.random.default_rng(seed)
    runs = list(itertools.product(range(n_replicates), range(n_seeds)))
    covered = 0
    for _ in range(n // chunk):
        got = intervals(rng, effects(rng, n_replicates, n_seeds, n_patients, shares, chunk), runs)
        covered += ((got.low <= 0) & (got.high >= 0)).sum()
    return covered / n


@pytest.mark.parametrize(
    ("n_replicates", "n_seeds", "n_patients", "shares"),
    [
        (3, 1, 16, (0.9, 0.05, 0.0, 0.05)),
        (3, 1, 16, (0.6, 0.4, 0.0, 0.0)),
        (3, 3, 16, (0.2, 0.2, 0.5, 0.1)),
        (3, 1, 64, (0.45, 0.45, 0.0, 0.1)),
        (5, 3, 16, (0.3, 0.6, 0.05, 0.05)),
        (5, 1, 8, (1.0, 0.0, 0.0, 0.0)),
    ],
)
def test_95_percent_intervals_cover_95_percent(n_replicates, n_seeds, n_patients, shares):
    assert LOW <= coverage(n_replicates, n_seeds, n_patients, shares) <= HIGH


@pytest.mark.slow
@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("n_patients", [8, 16, 64])
@pytest.mark.parametrize(("n_replicates", "n_seeds"), [(3, 1), (3, 3), (5, 1), (5, 3), (10, 1), (10, 3)])
def test_coverage_over_the_grid(n_replicates, n_seeds, n_patients, shares):
    noise = 0.005  # of 4000 simulations, 1.3 standard errors at the edge
    got = coverage(n_replicates, n_seeds, n_patients, shares)
    assert LOW - noise <= got <= HIGH + noise


def test_one_run_covers_what_it_would_score_on_all_patients():
    assert LOW <= coverage(1, 1, 8, (1.0, 0.0, 0.0, 0.0)) <= HIGH


def test_seeds_stand_for_replicates_where_there_is_one():
    assert LOW <= coverage(1, 5, 16, (0.4, 0.0, 0.5, 0.1)) <= HIGH


def test_uneven_numbers_of_seeds():
    """Three replicates of 1, 3 and 2 seeds; the estimate is the mean over runs."""
    rng = np.random.default_rng(0)
    keep = [0, 3, 4, 5, 6, 7]
    runs = [divmod(i, 3) for i in keep]
    covered = [
        ((got.low <= 0) & (got.high >= 0)).mean()
        for got in (intervals(rng, effects(rng, 3, 3, 16, (0.5, 0.1, 0.3, 0.1), 200)[keep], runs) for _ in range(10))
    ]
    assert 0.92 <= np.mean(covered) <= 0.98


class Counted:
    """Runs with pixels right and wrong of one class, (R, P, n), n data sets of different truth side by side."""

    def __init__(self, runs, right, wrong):
        self.runs, self.right, self.wrong = tuple(runs), right, wrong
        self.patients = tuple(map(str, range(right.shape[1])))

    def scores(self, weights):
        right, wrong = (np.tensordot(weights, part, axes=(1, 1)) for part in (self.right, self.wrong))
        zero = np.zeros_like(right)
        return pixel_accuracy(np.stack([np.stack([right, wrong], -1), np.stack([zero, zero], -1)], -2))


def test_pooled_counts_of_patients_of_unlike_size():
    """Bounded scores, a ratio of sums: accuracy pooled over patients of log-normal size."""
    rng = np.random.default_rng(0)
    runs, n, covered = [(0, 0), (1, 0), (2, 0)], 200, []

    def drawn(n_runs, n_patients):
        logit = 1.2 + 0.8 * rng.standard_normal((1, n_patients, n)) + 0.2 * rng.standard_normal((n_runs, 1, n))
        logit = logit + 0.2 * rng.standard_normal((n_runs, n_patients, n))
        size = np.exp(rng.normal(8, 0.5, (1, n_patients, n)))
        share = 1 / (1 + np.exp(-logit))
        return share * size, (1 - share) * size

    logits = 1.2 + np.sqrt(0.8**2 + 0.2**2 + 0.2**2) * scipy.stats.norm.ppf((np.arange(10000) + 0.5) / 10000)
    truth = (1 / (1 + np.exp(-logits))).mean()  # size and accuracy are independent
    for _ in range(8):
        got = stats.bootstrap(Counted(runs, *drawn(3, 24)), rng, 400)
        covered.append(((got.low <= truth) & (truth <= got.high)).mean())
    assert 0.92 <= np.mean(covered) <= 0.98


def test_ends_stay_where_a_score_can_be():
    counts = np.random.default_rng(0).integers(0, 3, (3, 4, 1))
    got = stats.bootstrap(Counted([(0, 0), (1, 0), (2, 0)], counts + 200, counts), np.random.default_rng(0), 200)
    assert got.high <= 1 and got.low < got.mean
    far = Counted([(0, 0), (1, 0)], np.array([[[9], [9]], [[1], [1]]]), np.array([[[1], [1]], [[9], [9]]]))
    got = stats.bootstrap(far, np.random.default_rng(0), 200)
    assert (got.low, got.high) == (0.0, 1.0)  # two replicates say next to nothing


def paired_p(rng, n, n_patients, n_methods=2, levels=None):
    """p of each two of n_methods without any difference, (n, pairs), by patients' mean over three runs."""
    scores = rng.standard_normal((n, n_methods, n_patients)) * np.exp(rng.normal(0, 0.5, (n, 1, n_patients)))
    scores = scores if levels is None else np.round(scores * levels) / levels
    pairs = itertools.combinations(range(n_methods), 2)
    return np.stack([[stats.wilcoxon(one) for one in scores[:, a] - scores[:, b]] for a, b in pairs], -1)


@pytest.mark.parametrize(("n_patients", "levels"), [(16, None), (40, None), (24, 4)])
def test_p_is_uniform_without_an_effect(n_patients, levels):
    p = paired_p(np.random.default_rng(n_patients), 1000, n_patients, levels=levels)[:, 0]
    distance = scipy.stats.kstest(p, "uniform").statistic
    steps = 0.01 if levels is None else 0.03  # p of a signed-rank test has steps, larger ones with ties
    assert distance < 1.36 / np.sqrt(len(p)) + steps
    assert 0.03 < (p < 0.05).mean() < 0.07


def test_holm_keeps_the_error_of_a_family():
    p = paired_p(np.random.default_rng(3), 300, 16, n_methods=4)
    naive = (p < 0.05).any(1).mean()
    family = np.mean([min(stats.holm(list(row))) < 0.05 for row in p])
    assert family <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(p)) < naive
