"""Drawing budgets: nested, of training patients only, at the right price, and read back from their files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.datasets.labels.purchases import replicates
from tissuebench.datasets.documents import write_hashed_json
from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.draw_budget import ALL_ON_MASKS, draw_budget, persisted_budget
from tissuebench.datasets.labels.purchase import Purchase
from tissuebench.datasets.splits import Split
from tissuebench.datasets.types import Tile
from tissuebench.errors import ConfigError, DataError


@given(st.integers(1, 6), st.integers(1, 6), replicates)
def test_budgets_are_nested(tiny_data, small, large, replicate):
    assume(small <= large)
    less, more = (
        draw_budget(tiny_data.store, tiny_data.split, f"masks:{n}p", replicate).patients for n in (small, large)
    )
    assert more[:small] == less
    assert set(more) <= set(tiny_data.split.patients("train"))


def test_a_small_budget_has_both_diagnoses(tiny_data):
    diagnosis = {s.patient_id: tiny_data.store.withheld.diagnosis(s.slide_id) for s in tiny_data.store.slides.values()}
    for replicate in range(20):
        budget = draw_budget(tiny_data.store, tiny_data.split, "masks:2p", replicate)
        assert {diagnosis[patient] for patient in budget.patients} == {("A",), ("B",)}


def test_diagnoses_that_must_be_bought_do_not_decide_who_is_drawn(tiny_data, monkeypatch):
    def both(replicate):
        patients = draw_budget(tiny_data.store, tiny_data.split, "masks:2p", replicate).patients
        return len({int(patient[-2:]) % 2 for patient in patients}) == 2  # A and B alternate

    assert all(both(replicate) for replicate in range(20))
    dear = replace(tiny_data.store.info.costs, diagnosis_minutes_per_case=0.5)
    monkeypatch.setattr(tiny_data.store, "info", replace(tiny_data.store.info, costs=dear))
    assert not all(both(replicate) for replicate in range(20))


ALL_OF_IT = ("masks:all", "masks:100%", "masks:7p", "masks:95%", "minutes:84", "minutes:999", "tags:all", "tags:7p")


@pytest.mark.parametrize("spec", ALL_OF_IT)
def test_a_budget_of_everything_is_one_whatever_draw_was_asked_for(tiny_data, tmp_path, spec):
    store, split = tiny_data.store, tiny_data.split
    drawn = {draw_budget(store, split, spec, replicate) for replicate in (0, 1, 7)}
    stored = {persisted_budget(tmp_path, store, split, spec, replicate) for replicate in (7, 0, 1)}
    assert drawn == stored
    (budget,) = drawn
    assert (budget.everything, budget.replicate) == (True, 0)
    (bought,) = budget.purchases.values()
    assert (bought.patients, bought.tiles) == (split.patients("train"), ())
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_minutes_that_leave_some_of_one_kind_are_drawn(tiny_data):
    """All tags, but not all masks."""
    tags = Spending(0.5, 0.5)
    drawn = [draw_budget(tiny_data.store, tiny_data.split, "minutes:80", replicate, tags) for replicate in (0, 1)]
    assert [(budget.everything, budget.replicate) for budget in drawn] == [(False, 0), (False, 1)]
    assert drawn[0].tags == drawn[1].tags
    assert drawn[0].mask_tiles != drawn[1].mask_tiles
    only = Spending(0, 0, diagnoses=True)
    assert draw_budget(tiny_data.store, tiny_data.split, "minutes:5", 3, only).everything  # diagnoses are never drawn


@pytest.mark.parametrize("spec", ["masks:3p", "minutes:40"])
def test_a_draw_is_not_that_of_another(tiny_data, spec):
    drawn = [draw_budget(tiny_data.store, tiny_data.split, spec, replicate) for replicate in range(10)]
    assert len({(budget.patients, budget.mask_tiles) for budget in drawn}) > 7  # of 7 patients, two may coincide
    assert not any(budget.everything for budget in drawn)


def test_cost_in_minutes(tiny_data, monkeypatch):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:3p", 0)
    assert (budget.tiles, budget.minutes) == (3 * 6, 3 * 6 * 2.0)  # 64 x 96 px in tiles of 32: six a slide
    dearer = replace(tiny_data.store.info.costs, mask_minutes_per_tile=0.5)
    monkeypatch.setattr(tiny_data.store, "info", replace(tiny_data.store.info, costs=dearer))
    assert draw_budget(tiny_data.store, tiny_data.split, "masks:all", 0).minutes == 7 * 6 * 0.5


def test_only_training_patients_are_sold(tiny_data):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:all", 0)
    assert sorted(budget.patients) == list(tiny_data.split.patients("train"))
    with pytest.raises(ConfigError, match="asks for 8 patients, the training part has 7 patients with masks"):
        draw_budget(tiny_data.store, tiny_data.split, "masks:8p", 0)


def test_the_hash_of_a_budget_covers_everything(tiny_data):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:3p", 0)
    others = [
        replace(budget, spec="masks:4p"),
        replace(budget, replicate=1),
        replace(budget, split_sha256="0"),
        replace(budget, patients=budget.patients[::-1]),
        replace(budget, tiles=1),
        replace(budget, mask_minutes=1.0),
        replace(budget, mask_tiles=(Tile("a", 0, 0),)),
        replace(budget, mask_tiles=(Tile("a", 0, 1),)),
        replace(budget, tags=Purchase(("a",))),
        replace(budget, tags=Purchase(("a",), n_tiles=1)),
        replace(budget, diagnoses=Purchase(("a",))),
        replace(budget, spending="masks"),
        replace(budget, everything=True),
    ]
    assert len({one.sha256 for one in (budget, *others)}) == len(others) + 1


BOTH = Spending(masks=0.75, tags=0.25, diagnoses=True)


def test_shares_do_not_depend_on_how_minutes_are_spent(tiny_data):
    for spec in ("masks:3p", "tags:25%"):
        drawn = {draw_budget(tiny_data.store, tiny_data.split, spec, 2, s).sha256 for s in (ALL_ON_MASKS, BOTH)}
        assert len(drawn) == 1


@pytest.mark.parametrize(
    ("spec", "spending"),
    [
        ("masks:3p", ALL_ON_MASKS),
        ("masks:30%", ALL_ON_MASKS),
        ("masks:all", BOTH),
        ("tags:3p", ALL_ON_MASKS),
        ("minutes:21", ALL_ON_MASKS),
        ("minutes:21", BOTH),
    ],
)
def test_a_budget_on_file_is_used_again(tiny_data, tmp_path, spec, spending):
    drawn = persisted_budget(tmp_path, tiny_data.store, tiny_data.split, spec, 1, spending)
    (path,) = tmp_path.rglob("*.json")
    before = path.stat().st_mtime_ns
    again = persisted_budget(tmp_path, tiny_data.store, tiny_data.split, spec, 1, spending)
    assert (again, again.sha256) == (drawn, drawn.sha256)
    assert json.loads(path.read_text())["sha256"] == drawn.sha256
    assert path.stat().st_mtime_ns == before
    assert drawn == draw_budget(tiny_data.store, tiny_data.split, spec, 1, spending)


def test_specs_replicates_and_splits_have_files_of_their_own(tiny_data, tmp_path):
    other = Split("other", tiny_data.split.parts)
    for spec in ("masks:3p", "masks:3%", "masks:all"):
        for replicate in (0, 1):
            for split in (tiny_data.split, other):
                persisted_budget(tmp_path, tiny_data.store, split, spec, replicate)
    assert len(list(tmp_path.rglob("*.json"))) == 2 * (2 + 2 + 1)  # a budget of everything has no draws
    for spending in (ALL_ON_MASKS, BOTH, Spending(0.5, 0.5), Spending(0, 1), Spending(1, 0, True)):
        persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "minutes:21", 0, spending)
        persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "tags:3p", 0, spending)  # asks no method
    names = {path.name for path in tmp_path.rglob("*.json")}
    assert len(list(tmp_path.rglob("*.json"))) == 10 + 5 + 1
    assert {"masks-3p-r0.json", "masks-3pct-r1.json", "tags-3p-r0.json", "minutes-21-masks-r0.json"} <= names
    assert "minutes-21-masks0.75-tags0.25-diagnosis-r0.json" in names


def test_an_edited_budget_is_refused(tiny_data, tmp_path):
    persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "masks:3p", 0)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text().replace('"n_tiles": 18', '"n_tiles": 9'))
    with pytest.raises(DataError, match=r"masks-3p-r0\.json: was edited by hand"):
        persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "masks:3p", 0)


@pytest.mark.parametrize("content", [{}, {"purchases": {"masks": {"patients": []}}}, {"purchases": [1]}])
def test_a_budget_of_another_version_or_place_is_refused(tiny_data, tmp_path, content):
    store, split = tiny_data.store, tiny_data.split
    persisted_budget(tmp_path, store, split, "masks:3p", 0)
    (path,) = tmp_path.rglob("*.json")
    shutil.copy(path, path.with_name("masks-4p-r0.json"))
    with pytest.raises(DataError, match=r"masks-4p-r0\.json: holds a different budget than its name says"):
        persisted_budget(tmp_path, store, split, "masks:4p", 0)
    same = {"spec": "masks:3p", "replicate": 0, "everything": False, "split_sha256": split.sha256, "spending": ""}
    write_hashed_json(path, {**same, **content})
    with pytest.raises(DataError, match=r"masks-3p-r0\.json: is not a budget of this version; delete it"):
        persisted_budget(tmp_path, store, split, "masks:3p", 0)


@pytest.mark.parametrize("spec", ["masks:99p", "masks:lots", "masks:../../x", "tags:99p", "minutes:1", "minutes:0"])
def test_a_budget_that_cannot_be_drawn_leaves_no_file(tiny_data, tmp_path, spec):
    with pytest.raises(ConfigError):
        persisted_budget(tmp_path / "budgets", tiny_data.store, tiny_data.split, spec, 0)
    assert list(tmp_path.rglob("*")) == []


def test_a_budget_in_a_trial_of_an_earlier_release_is_read(tiny_data):
    document = draw_budget(tiny_data.store, tiny_data.split, "masks:3p", 0).document()
    assert LabelBudget.of_document(document).document() == document
    del document["everything"]
    assert not LabelBudget.of_document(document).everything
