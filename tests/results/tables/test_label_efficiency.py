"""Label efficiency: areas and minutes by hand, censoring, intervals that know of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.results.stats.test_intervals import Plain
from tissuebench.results.stats.scored import score
from tissuebench.results.tables.label_efficiency import Curve, area_weights, common_range, efficiency, minutes_to

MINUTES = (10.0, 100.0, 1000.0)
RUNS = ((0, 0), (1, 1), (2, 2))


def scored(value, spread=0.0, n_patients=16, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((3, n_patients, 1))
    return score(Plain(RUNS, value + spread * (noise - noise.mean())))


def curve(*scores, minutes=MINUTES, spread=0.0):
    return Curve(tuple(minutes), tuple(scored(value, spread, seed=i) for i, value in enumerate(scores)))


def area(minutes, scores, first, last):
    return float(area_weights(minutes, first, last) @ np.array(scores))


def test_area_is_the_mean_height_over_log_minutes():
    assert area(MINUTES, [0.2, 0.4, 0.8], 10, 1000) == pytest.approx((0.3 + 0.6) / 2)
    assert area(MINUTES, [0.2, 0.4, 0.8], 100, 1000) == pytest.approx(0.6)
    middle = 10**1.5  # half-way in the logarithm
    assert area(MINUTES, [0.2, 0.4, 0.8], middle, 100) == pytest.approx((0.3 + 0.4) / 2)


@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(st.floats(1, 5000), min_size=4, max_size=4, unique_by=lambda v: round(v, 2)),
    st.floats(0.01, 100),
)
@examples(50)
def test_area_is_between_the_ends_and_does_not_know_the_unit(scores, minutes, unit):
    minutes, scores = np.sort(minutes), np.array(scores)
    found = area(minutes, scores, minutes[0], minutes[-1])
    assert scores.min() - 1e-9 <= found <= scores.max() + 1e-9
    assert area(unit * minutes, scores, unit * minutes[0], unit * minutes[-1]) == pytest.approx(found, abs=1e-6)
    assert area_weights(minutes, minutes[0], minutes[-1]).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("scores", "goal", "minutes"),
    [
        ([0.2, 0.4, 0.8], 0.6, 10**2.5),
        ([0.2, 0.4, 0.8], 0.4, 100),
        ([0.2, 0.4, 0.8], 0.2, 0),  # at the smallest budget
        ([0.2, 0.4, 0.8], 0.9, math.inf),  # never
        ([0.2, 0.6, 0.3], 0.4, 10**1.5),  # it is the first time that counts
        ([0.5, 0.2, 0.8], 0.6, 10 ** (2 + 2 / 3)),
        ([0.2, np.nan, 0.8], 0.6, np.nan),
        ([0.2, 0.4, 0.8], np.nan, np.nan),
    ],
)
def test_minutes_by_hand(scores, goal, minutes):
    np.testing.assert_allclose(minutes_to(MINUTES, np.array(scores), goal), minutes, rtol=1e-9)


def test_only_what_all_methods_cover_is_compared():
    wide, narrow = curve(0.1, 0.5, 0.9), curve(0.4, 0.6, minutes=(20, 200))
    assert common_range([wide, narrow]) == (20, 200)
    assert common_range([wide, curve(0.1, 0.2, minutes=(1, 10))]) is None
    rows = efficiency("d", "miou", {"wide": wide, "narrow": narrow}, None)
    assert [(row.method, row.n_budgets, row.first, row.last) for row in rows] == [
        ("wide", 3, 20, 200),
        ("narrow", 2, 20, 200),
    ]
    assert rows[1].area == pytest.approx(0.5) and rows[1].minutes is None
    assert efficiency("d", "miou", {}, None) == []


def test_without_a_common_range_there_are_minutes_and_no_area():
    apart = {"low": curve(0.1, 0.7, minutes=(1, 10)), "high": curve(0.4, 0.8, minutes=(10, 1000))}
    low, high = efficiency("d", "miou", apart, scored(0.5 / 0.95))
    assert low.first is low.last is low.area is low.area_low is None
    assert low.minutes == pytest.approx(10 ** (2 / 3)) and high.minutes == pytest.approx(10**1.5)


def test_intervals_hold_the_estimate_and_may_end_at_never():
    (row,) = efficiency("d", "miou", {"m": curve(0.2, 0.4, 0.8, spread=0.1)}, scored(0.6 / 0.95, 0.1, seed=7))
    assert row.minutes == pytest.approx(10**2.5)
    assert 100 < row.minutes_low < row.minutes < row.minutes_high < 1000
    assert row.area == pytest.approx(0.45) and row.area_low < row.area < row.area_high
    (row,) = efficiency("d", "miou", {"m": curve(0.2, 0.4, 0.62, spread=0.1)}, scored(0.6 / 0.95, 0.1, seed=7))
    assert row.minutes_low < row.minutes < math.inf == row.minutes_high
    (row,) = efficiency("d", "miou", {"m": curve(0.9, 0.95, 0.96)}, scored(0.6 / 0.95))
    assert row.minutes == row.minutes_low == 0


def test_runs_that_are_not_in_common_leave_the_estimate_alone():
    lone = score(Plain(((9, 9),), np.full((1, 16, 1), 0.6 / 0.95)))
    (row,) = efficiency("d", "miou", {"m": curve(0.2, 0.4, 0.8)}, lone)
    assert row.minutes == pytest.approx(10**2.5) and row.minutes_low is row.minutes_high is None
