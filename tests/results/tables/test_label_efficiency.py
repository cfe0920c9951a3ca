"""Label efficiency: areas and minutes by hand, censoring, intervals that know of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuebench.results.tables.label_efficiency import Curve, area, common_range, efficiency, minutes_to

MINUTES = np.array([10.0, 100.0, 1000.0])


def curve(*scores, minutes=MINUTES, draws=None):
    return Curve(np.asarray(minutes, float), np.array(scores), np.array([scores] if draws is None else draws))


def test_area_is_the_mean_height_over_log_minutes():
    assert area(MINUTES, np.array([0.2, 0.4, 0.8]), 10, 1000) == pytest.approx((0.3 + 0.6) / 2)
    assert area(MINUTES, np.array([0.2, 0.4, 0.8]), 100, 1000) == pytest.approx(0.6)
    middle = 10**1.5  # half-way in the logarithm
    assert area(MINUTES, np.array([0.2, 0.4, 0.8]), middle, 100) == pytest.approx((0.3 + 0.4) / 2)


@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(st.floats(1, 5000), min_size=4, max_size=4, unique_by=lambda v: round(v, 2)),
    st.floats(0.01, 100),
)
def test_area_is_between_the_ends_and_does_not_know_the_unit(scores, minutes, unit):
    minutes, scores = np.sort(minutes), np.array(scores)
    found = area(minutes, scores, minutes[0], minutes[-1])
    assert scores.min() - 1e-9 <= found <= scores.max() + 1e-9
    assert area(unit * minutes, scores, unit * minutes[0], unit * minutes[-1]) == pytest.approx(float(found), abs=1e-6)


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
    found = minutes_to(MINUTES, np.array([scores]), np.array([goal]))
    np.testing.assert_allclose(found, [minutes], rtol=1e-9)


def test_each_draw_has_its_own_curve_and_goal():
    scores = np.array([[0.2, 0.4, 0.8], [0.2, 0.4, 0.8], [0.9, 0.9, 0.9]])
    found = minutes_to(MINUTES, scores, np.array([0.6, 0.9, 0.6]))
    np.testing.assert_allclose(found, [10**2.5, math.inf, 0])


def test_only_what_all_methods_cover_is_compared():
    wide, narrow = curve(0.1, 0.5, 0.9), curve(0.4, 0.6, minutes=[20, 200])
    assert common_range([wide, narrow]) == (20, 200)
    assert common_range([wide, curve(0.1, 0.2, minutes=[1, 10])]) is None
    rows = efficiency("d", "miou", {"wide": wide, "narrow": narrow}, None)
    assert [(row.method, row.n_budgets, row.first, row.last) for row in rows] == [
        ("wide", 3, 20, 200),
        ("narrow", 2, 20, 200),
    ]
    assert rows[1].area == pytest.approx(0.5) and rows[1].minutes is None
    assert efficiency("d", "miou", {}, None) == []


def test_without_a_common_range_there_are_minutes_and_no_area():
    apart = {"low": curve(0.1, 0.7, minutes=[1, 10]), "high": curve(0.4, 0.8, minutes=[10, 1000])}
    low, high = efficiency("d", "miou", apart, (0.5 / 0.95, np.array([0.5 / 0.95])))
    assert low.first is low.last is low.area is low.area_low is None
    assert low.minutes == pytest.approx(10 ** (2 / 3)) and high.minutes == pytest.approx(10**1.5)


def test_intervals_may_end_at_never():
    draws = np.array([[0.2, 0.4, 0.8]] * 90 + [[0.2, 0.4, 0.5]] * 10)
    (row,) = efficiency("d", "miou", {"m": curve(0.2, 0.4, 0.8, draws=draws)}, (0.6 / 0.95, np.full(100, 0.6 / 0.95)))
    assert row.minutes == pytest.approx(10**2.5) == row.minutes_low
    assert row.minutes_high == math.inf
    assert row.area_low == pytest.approx((0.3 + 0.45) / 2) and row.area_high == pytest.approx((0.3 + 0.6) / 2)
