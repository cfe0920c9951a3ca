"""Patients held out for choosing a checkpoint: nested, and never trained on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.labels.partial_stores import ALL_KINDS, PARTIAL_SPLIT, bought_with
from tissuebench.datasets.labels.budget import LabelBudget, selection_patients
from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.purchase import Purchase
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError, WithheldLabelError


@given(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=30), st.floats(0.01, 0.5), st.data())
def test_who_chooses_a_checkpoint_is_nested_too(patients, share, data):
    less = patients[: data.draw(st.integers(0, len(patients)))]
    small, large = (
        selection_patients(LabelBudget("masks:1p", 0, "", patients=tuple(bought)), share) for bought in (less, patients)
    )
    assert large[: len(small)] == small
    assert set(small) <= set(less)
    assert len(large) == len(patients) // round(1 / share)
    assert len(set(large)) < max(len(patients), 1)  # somebody is left to train on


def test_a_checkpoint_may_be_chosen_by_tags_or_by_nobody():
    budget = LabelBudget("tags:4p", 0, "", tags=Purchase(("a", "b", "c", "d")))
    assert selection_patients(budget, 0.5, Supervision.TAGS) == ("b", "d")
    assert selection_patients(budget, 0.5) == selection_patients(budget, 0, Supervision.TAGS) == ()
    for share in (-0.1, 0.6, 1, float("nan")):
        with pytest.raises(ConfigError, match=r"goes from 0 to 0\.5"):
            selection_patients(budget, share)


def test_who_chooses_a_checkpoint_is_not_trained_on(partial):
    spending = Spending(0.8, 0.2)
    budget, view = bought_with(partial, "minutes:150", kinds=ALL_KINDS, spending=spending)
    held_out = frozenset(selection_patients(budget, 0.5))
    assert held_out
    _, kept = bought_with(partial, "minutes:150", kinds=ALL_KINDS, spending=spending, held_out=held_out)

    def rest(tiles):
        return [tile for tile in tiles if partial.slides[tile.slide_id].patient_id not in held_out]

    assert kept.mask_tiles() == rest(view.mask_tiles()) != view.mask_tiles()
    assert kept.tag_tiles() == rest(view.tag_tiles())
    _, none = bought_with(partial, "minutes:20", held_out=PARTIAL_SPLIT.patients("train"))
    assert none.mask_tiles() == []
    shut = next(tile for tile in view.mask_tiles() if tile not in kept.mask_tiles())
    for ask in (lambda: kept.mask(shut, 32, 32), lambda: kept.tags(shut, 32)):
        with pytest.raises(WithheldLabelError, match="not bought"):
            ask()


@pytest.mark.parametrize("kind", ["masks", "tags"])
def test_single_tiles_of_who_chooses_a_checkpoint_are_closed_too(partial, kind):
    spending = Spending() if kind == "masks" else Spending(0, 1)
    budget, view = bought_with(partial, "minutes:6", kinds=ALL_KINDS, spending=spending)
    assert len(budget.purchases[Supervision(kind)].patients) < 2
    patient = partial.slides[budget.purchases[Supervision(kind)].tiles[0].slide_id].patient_id
    kept = LabelView.for_training(partial, PARTIAL_SPLIT, budget, ALL_KINDS, held_out={patient})
    assert view.tag_tiles() != kept.tag_tiles()
    assert all(partial.slides[tile.slide_id].patient_id != patient for tile in kept.tag_tiles())
