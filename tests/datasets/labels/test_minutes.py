"""Buying labels by the minute: as many as the minutes pay for, and more minutes never buy less."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.labels.purchases import made_up, replicates, some_tiles, whole_slides
from tests.processes import output_of
from tissuebench.datasets.labels.purchase import Purchase, buy_minutes, buy_patients

sold = st.dictionaries(
    st.text("abcdef012345", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["A", "B", ""]), st.frozensets(st.integers(0, 5), max_size=4), st.integers(1, 9)),
    min_size=1,
    max_size=12,
)
prices = st.sampled_from([2.0, 0.05, 0.5, 1.0 / 3, 7.25])
amounts = st.floats(0, 250, allow_nan=False)


def tiles_of(purchase, cohort):
    whole = {tile for p in purchase.patients for (tile,) in whole_slides(p, cohort[p][2])}
    assert not whole & set(purchase.tiles)
    return whole | set(purchase.tiles)


def test_a_small_slide_does_not_jump_the_queue():
    """Tiles that are sold together: skipping what is too dear for what is cheap would end the nesting."""
    offer = made_up({"a": ("", frozenset(), 9)}, 1.0, tagged=True)
    for replicate in range(10):
        sets = [set(buy_minutes(offer, minutes, replicate).tiles) for minutes in range(9)]
        assert all(less <= more for less, more in pairwise(sets))


@given(sold, prices, st.booleans(), amounts, amounts, replicates)
def test_what_fewer_minutes_bought_is_in_what_more_bought(cohort, price, tagged, one, other, replicate):
    offer = made_up(cohort, price, tagged)
    less, more = (buy_minutes(offer, minutes, replicate) for minutes in sorted((one, other)))
    assert tiles_of(less, cohort) <= tiles_of(more, cohort)
    assert more.patients[: len(less.patients)] == less.patients
    assert less.minutes <= more.minutes
    if len(less.patients) == len(more.patients):
        assert more.tiles[: len(less.tiles)] == less.tiles


@given(sold, prices, st.booleans(), amounts, replicates)
def test_minutes_go_as_far_as_they_reach(cohort, price, tagged, minutes, replicate):
    offer = made_up(cohort, price, tagged)
    bought = buy_minutes(offer, minutes, replicate)
    tiles = tiles_of(bought, cohort)
    assert len(tiles) == bought.n_tiles == len(set(tiles))
    assert bought.minutes == bought.n_tiles * price <= minutes + 1e-6
    order = offer.order(replicate)
    assert bought.patients == order[: len(bought.patients)]
    if len(bought.patients) == len(cohort):
        assert bought.tiles == ()
        return
    at_the_end = order[len(bought.patients)]
    units = whole_slides(at_the_end, cohort[at_the_end][2], tagged)
    assert set(bought.tiles) < {tile for unit in units for tile in unit}
    assert all(set(unit) <= set(bought.tiles) or not set(unit) & set(bought.tiles) for unit in units)
    dearest = max(len(unit) for unit in units)
    assert minutes < bought.minutes + dearest * price + 1e-6  # nothing more of this patient could be paid


@given(sold, prices, st.integers(0, 40), replicates)
def test_minutes_and_patients_buy_in_one_order(cohort, price, count, replicate):
    offer = made_up(cohort, price)
    bought = buy_patients(offer, count, replicate)
    assert (bought.tiles, bought.minutes) == ((), bought.n_tiles * price)
    assert buy_minutes(offer, bought.minutes, replicate) == bought


def test_labels_that_cost_nothing_are_all_bought():
    offer = made_up({"a": ("", frozenset(), 3), "b": ("", frozenset(), 2)}, 0.0)
    assert buy_minutes(offer, 0, 1) == Purchase(offer.order(1), (), 5, 0.0)


def test_the_order_of_tiles_is_drawn_for_each_replicate_and_patient():
    offer = made_up({"a": ("", frozenset(), 9)}, 1.0)
    firsts = {buy_minutes(offer, 1, replicate).tiles for replicate in range(40)}
    assert len(firsts) > 5
    other = made_up({"b": ("", frozenset(), 9)}, 1.0)
    drawn = [[tile.x for tile in buy_minutes(one, 8, 3).tiles] for one in (offer, other)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_tiles_are_drawn_alike_in_every_process(hash_seed):
    found = output_of("tests.datasets.labels.purchases", "tiles", PYTHONHASHSEED=hash_seed)
    assert found.split() == some_tiles()
