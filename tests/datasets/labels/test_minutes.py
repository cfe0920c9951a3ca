"""Buying labels by the minute: dealt in turn over the patients, as many as the minutes pay for, nested."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.datasets.labels.purchases import bought, made_up, replicates, some_tiles, tiles_of, units_of
from tests.processes import output_of
from tests.properties import examples
from tissuebench.datasets.labels.purchase import Purchase, buy_patients, decimal, least_minutes

sold = st.dictionaries(
    st.text("abcdef012345", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["A", "B", ""]), st.integers(1, 9)),
    min_size=1,
    max_size=12,
)
prices = st.sampled_from([2.0, 0.05, 0.5, 7.25])
openings = st.sampled_from([0.0, 0.1, 3.0])
amounts = st.decimals(0, 250, places=3).map(float)
offers = st.tuples(prices, st.booleans(), openings)


def test_an_hour_is_spread_over_the_patients():
    cohort = {f"p{n:02}": ("AB"[n % 2], 36) for n in range(24)}
    for replicate in range(10):
        hour = bought(made_up(cohort, 2.0), 60, replicate)
        assert (hour.n_tiles, hour.minutes, hour.patients) == (30, 60.0, ())
        taken = Counter(tile.slide_id[:3] for tile in hour.tiles)
        assert sorted(taken.values()) == [1] * 18 + [2] * 6  # all 24 once, then the first six again
        order = made_up(cohort, 2.0).order(replicate)
        assert tuple(tile.slide_id[:3] for tile in hour.tiles) == order + order[:6]


@given(sold, offers, replicates)
def test_units_are_dealt_in_turn(cohort, offered, replicate):
    """In every round each patient with anything left gets one unit, in the order of the draw."""
    price, tagged, opening = offered
    offer = made_up(cohort, price, tagged, opening)
    dealt = list(offer.in_turn(replicate))
    left = {patient: len(units_of(patient, n, tagged)) for patient, (_, n) in cohort.items()}
    expected = []
    while any(left.values()):
        for patient in offer.order(replicate):
            if left[patient]:
                left[patient] -= 1
                expected.append(patient)
    assert [patient for patient, _ in dealt] == expected
    units = [unit for patient, (_, n) in cohort.items() for unit in units_of(patient, n, tagged)]
    assert Counter(unit for _, unit in dealt) == Counter(units)


@given(sold, offers, amounts, amounts, replicates)
def test_what_fewer_minutes_bought_is_in_what_more_bought(cohort, offered, one, other, replicate):
    offer = made_up(cohort, *offered)
    less, more = (bought(offer, minutes, replicate) for minutes in sorted((one, other)))
    assert tiles_of(less, cohort) <= tiles_of(more, cohort)
    assert less.minutes <= more.minutes
    assert set(less.patients) <= set(more.patients)
    if more != offer.everything:
        assert more.patients[: len(less.patients)] == less.patients


@given(sold, offers, amounts, replicates)
def test_minutes_go_exactly_as_far_as_they_reach(cohort, offered, minutes, replicate):
    price, tagged, opening = offered
    offer = made_up(cohort, price, tagged, opening)
    purchase = bought(offer, minutes, replicate)
    assert purchase.minutes <= minutes  # no tolerance: sums are exact
    tiles = tiles_of(purchase, cohort)
    dealt = [unit for _, unit in offer.in_turn(replicate)]
    count = next(n for n in range(len(dealt) + 1) if sum(map(len, dealt[:n])) == purchase.n_tiles)
    assert tiles == {tile for unit in dealt[:count] for tile in unit}
    assert len(tiles) == purchase.n_tiles

    def cost(units):
        opened = {unit[0].slide_id for unit in units}
        return sum(map(len, units)) * decimal(price) + len(opened) * decimal(opening)

    assert purchase.minutes == float(cost(dealt[:count]))
    if count < len(dealt):
        assert cost(dealt[: count + 1]) > decimal(minutes)  # the next one in turn does not fit
    else:
        assert purchase == offer.everything


@given(sold, offers, replicates)
def test_the_order_of_slides_and_patients_in_the_store_does_not_matter(cohort, offered, replicate):
    offer = made_up(cohort, *offered)
    backwards = made_up(dict(reversed(cohort.items())), *offered)
    shuffled = type(offer)(
        backwards.minutes_per_tile,
        backwards.opening_minutes_per_slide,
        backwards.n_tiles,
        backwards.n_slides,
        backwards.diagnoses,
        lambda patient: offer.units(patient)[::-1],
    )
    for minutes in (10, 40):
        assert bought(offer, minutes, replicate) == bought(shuffled, minutes, replicate)


def test_a_slide_that_is_opened_costs_its_minutes_once():
    offer = made_up({"a": ("", 4)}, 2.0, opening=5.0)  # two slides of two tiles
    for replicate in range(10):
        costs = [bought(offer, minutes, replicate).minutes for minutes in (6, 7, 8, 9, 13, 16, 17, 18, 99)]
        assert costs[:2] == [0, 7]
        assert {costs[2], costs[3]} <= {7, 9}
        assert costs[-2:] == [18, 18]
        sizes = [bought(offer, minutes, replicate).n_tiles for minutes in (6, 7, 14, 16, 18)]
        assert sizes[:2] + sizes[-1:] == [0, 1, 4]
        assert least_minutes(offer, replicate) == 7
    assert buy_patients(made_up({"a": ("", 4), "b": ("", 1)}, 2.0, opening=5.0), 2, 0).minutes == 10 + 3 * 5


def test_tiles_that_are_sold_together_do_not_jump_the_queue():
    """Skipping what is too dear for what is cheap would end the nesting."""
    offer = made_up({"a": ("", 9)}, 1.0, tagged=True)
    for replicate in range(10):
        sets = [set(bought(offer, minutes, replicate).tiles) for minutes in range(9)]
        assert all(less <= more for less, more in pairwise(sets))


def test_sums_of_minutes_have_no_rounding_errors():
    offer = made_up({f"p{n}": ("", 9) for n in range(9)}, 0.05)
    assert 3 * 0.05 > 0.15  # in floating point
    assert [bought(offer, minutes / 100, 0).n_tiles for minutes in (5, 10, 15, 30, 35)] == [1, 2, 3, 6, 7]
    assert bought(offer, 0.15, 0).minutes == 0.15
    assert bought(offer, Fraction(3, 20) - Fraction(1, 10**9), 0).n_tiles == 2


@given(sold, offers, st.integers(0, 3), replicates)
def test_everything_is_the_same_in_every_draw(cohort, offered, more, replicate):
    offer = made_up(cohort, *offered)
    everything = offer.everything
    assert everything.patients == tuple(sorted(cohort))
    assert bought(offer, everything.minutes + more, replicate) == everything
    assert buy_patients(offer, len(cohort), replicate) == everything
    if everything.n_tiles > 1:
        assert bought(offer, everything.minutes - 0.001, replicate) != everything


@examples(50)
@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 2)), min_size=1, max_size=4), st.data())
def test_what_every_draw_buys_alike_is_everything(patients, data):
    """So a budget that can buy only one set of labels counts as one draw. Two outcomes would show in 60 draws."""
    cohort = {f"p{number}": patient for number, patient in enumerate(patients)}
    offer = made_up(cohort, 1.0)
    assume(offer.n_tiles)
    count = data.draw(st.integers(1, len(offer.n_tiles)))
    minutes = data.draw(st.integers(1, sum(offer.n_tiles.values())))
    for buy in (lambda replicate: buy_patients(offer, count, replicate), lambda r: bought(offer, minutes, r)):
        content = {frozenset(tiles_of(buy(replicate), cohort)) for replicate in range(60)}
        assert (len(content) == 1) == (buy(0) == offer.everything)


def test_labels_that_cost_nothing_are_all_bought():
    offer = made_up({"b": ("", 3), "a": ("", 2)}, 0.0)
    assert bought(offer, 0, 1) == Purchase(("a", "b"), (), 5, 0.0)


def test_patients_who_are_not_reached_are_not_looked_up():
    asked = []
    offer = made_up({f"p{n}": ("", 5) for n in range(50)}, 1.0)
    watched = type(offer)(
        1.0, 0.0, offer.n_tiles, offer.n_slides, offer.diagnoses, lambda p: asked.append(p) or offer.units(p)
    )
    bought(watched, 3, 0)
    assert asked == list(offer.order(0)[:4])  # three are bought, the fourth is too dear


def test_the_order_of_tiles_is_drawn_for_each_replicate_and_patient():
    offer = made_up({"a": ("", 9)}, 1.0)
    assert len({bought(offer, 1, replicate).tiles for replicate in range(40)}) > 5
    other = made_up({"b": ("", 9)}, 1.0)
    drawn = [[unit[0].x for _, unit in islice(one.in_turn(3), 9)] for one in (offer, other)]
    assert drawn[0] != drawn[1]
    assert all(order != sorted(order) for order in drawn)  # fields over the slides, not row by row


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_tiles_are_drawn_alike_in_every_process(hash_seed):
    found = output_of("tests.datasets.labels.purchases", "tiles", PYTHONHASHSEED=hash_seed)
    assert found.split() == some_tiles()
