from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tissuebench.datasets.documents import write_hashed_json
from tissuebench.datasets.labels.budget import LabelBudget, selection_patients
from tissuebench.datasets.labels.budget_spec import Spending, parse_spec
from tissuebench.datasets.labels.draw_budget import ALL_ON_MASKS, draw_budget, persisted_budget
from tissuebench.datasets.labels.purchase import NOTHING, Offer, Purchase, buy_minutes, buy_patients, purchase_order
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import ClassMap, LabelCosts, Supervision, Tile
from tissuebench.errors import ConfigError, DataError

cohorts = st.dictionaries(
    st.text("abcdef012345", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["A", "B", "C", ""]), st.frozensets(st.integers(0, 5), max_size=4)),
    min_size=1,
    max_size=40,
)
replicates = st.integers(0, 2**32)


def order_of(cohort, replicate=0):
    return purchase_order({p: c[0] for p, c in cohort.items()}, {p: c[1] for p, c in cohort.items()}, replicate)


@given(cohorts, replicates)
def test_every_patient_is_bought_once(cohort, replicate):
    assert sorted(order_of(cohort, replicate)) == sorted(cohort)


@given(cohorts, replicates)
def test_the_order_does_not_depend_on_the_order_of_the_cohort(cohort, replicate):
    assert order_of(cohort, replicate) == order_of(dict(reversed(cohort.items())), replicate)


@given(cohorts, replicates)
def test_each_purchase_keeps_the_promises_of_the_order(cohort, replicate):
    """Most unseen classes first; among those, the diagnosis that is furthest behind."""
    order = order_of(cohort, replicate)
    sizes = Counter(diagnosis for diagnosis, _ in cohort.values())
    seen: set[int] = set()
    taken: Counter[str] = Counter()
    for position, bought in enumerate(order):
        left = order[position:]
        new = {patient: len(cohort[patient][1] - seen) for patient in left}
        assert new[bought] == max(new.values())
        behind = {p: taken[cohort[p][0]] / sizes[cohort[p][0]] for p in left if new[p] == new[bought]}
        assert behind[bought] == min(behind.values())
        seen |= cohort[bought][1]
        taken[cohort[bought][0]] += 1


@given(cohorts, replicates)
def test_every_class_is_there_once_no_purchase_adds_one(cohort, replicate):
    seen: set[int] = set()
    everything = {index for _, classes in cohort.values() for index in classes}
    for bought in order_of(cohort, replicate):
        if seen == everything:
            break
        assert cohort[bought][1] - seen  # no purchase is wasted while a class is missing
        seen |= cohort[bought][1]
    assert seen == everything


@given(st.integers(1, 30), st.integers(1, 30), replicates)
def test_two_diagnoses_are_within_one_of_their_share(n_a, n_b, replicate):
    cohort = {f"P{n:02}": ("A" if n < n_a else "B", frozenset({0})) for n in range(n_a + n_b)}
    taken: Counter[str] = Counter()
    for count, bought in enumerate(order_of(cohort, replicate), start=1):
        taken[cohort[bought][0]] += 1
        # the first purchase, which brings the only class, is drawn from both
        assert abs(taken["A"] - count * n_a / (n_a + n_b)) <= 1 + 1e-9


def test_replicates_differ():
    cohort = {f"P{n:02}": ("AB"[n % 2], frozenset({0, 1 + n % 2})) for n in range(20)}
    assert len({order_of(cohort, replicate) for replicate in range(20)}) == 20
    assert len({order_of(cohort, replicate)[0] for replicate in range(60)}) > 10


GOLDEN = {
    0: "25 23 10 19 14 08 20 21 12 27 17 11 05 13 18 22 09 24 07 15 06 29 28 16 03 01 00 02 26 04",
    1: "24 23 21 05 25 08 20 01 04 17 06 07 22 13 19 14 09 03 12 18 16 29 11 27 10 26 00 02 28 15",
    12345: "02 03 29 21 05 18 23 15 14 24 20 01 25 06 19 00 17 13 12 11 27 22 07 10 09 26 04 16 28 08",
}
TINY_GOLDEN = {0: "01 06 02 05 00 03 04", 1: "06 01 00 03 04 05 02", 2: "01 04 02 03 00 05 06"}


@pytest.mark.parametrize("replicate", GOLDEN)
def test_the_order_is_the_one_of_the_first_version(replicate):
    """Recorded before slides without annotation and minutes came in: published budgets stay what they are."""
    strata = ("A", "B", "A;B", "")
    cohort = {f"P{n:02}": (strata[n % 7 % 4], frozenset({n % 2, n % 5, n * n % 7})) for n in range(30)}
    assert order_of(cohort, replicate) == tuple(f"P{n}" for n in GOLDEN[replicate].split())


@pytest.mark.parametrize("replicate", TINY_GOLDEN)
def test_the_tiny_cohort_is_bought_as_in_the_first_version(tiny_data, replicate):
    budget = draw_budget(tiny_data.store, tiny_data.split, "masks:all", replicate)
    assert budget.patients == tuple(f"case{n}" for n in TINY_GOLDEN[replicate].split())
    assert (budget.tiles, budget.minutes) == (42, 84.0)


def one_order():
    return order_of({f"P{n:02}": ("ABC"[n % 3], frozenset({n % 2, n % 5})) for n in range(40)}, 3)


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_the_order_is_the_same_in_every_process(hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    found = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split() == list(one_order())


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("masks:3p", 3),
        ("masks:12p", 12),
        ("masks:25%", 3),
        ("masks:26%", 4),
        ("masks:0.1%", 1),
        ("masks:33.4%", 5),
        ("masks:100%", 12),
        ("masks:all", 12),
    ],
)
def test_what_a_spec_buys_of_twelve(spec, count):
    assert parse_spec(spec).patients_of(12) == count
    assert parse_spec(spec.replace("masks", "tags")).patients_of(12) == count


@given(st.integers(1, 500))
def test_a_share_that_comes_out_even_is_not_rounded_up(n):
    assert parse_spec("masks:10%").patients_of(10 * n) == n
    assert parse_spec("masks:70%").patients_of(10 * n) == 7 * n


@pytest.mark.parametrize(
    "spec",
    [
        "masks:3",
        "masks:p",
        "3p",
        "mask:3p",
        "masks:-1p",
        "masks:25",
        "masks:ALL",
        " masks:3p",
        "masks:3p ",
        "",
        "masks:",
        "masks:3p\n",
        "masks:\u0663p",
        "masks:" + 5000 * "9" + "p",
        "tags:3",
        "minutes:",
        "minutes:-5",
        "minutes:1e3",
        "minutes:nan",
        "minutes:inf",
        "minutes:60p",
        "diagnosis:3p",
        "masks:../../x",
    ],
)
def test_another_spelling_says_how_to_spell_it(spec):
    with pytest.raises(ConfigError) as error:
        parse_spec(spec)
    for spelling in ("'masks:3p' (patients)", "'masks:25%' (a share)", "'masks:all'", "'tags:'", "'minutes:60'"):
        assert spelling in str(error.value)
    assert "\n" not in str(error.value)


@given(
    st.from_regex(
        r"(masks|tags):([0-9]{1,4}p|[0-9]{1,3}(\.[0-9]{1,3})?%|all)|minutes:[0-9]{1,4}(\.[0-9]{1,3})?",
        fullmatch=True,
        alphabet="0123456789abcdefghijklmnopqrstuvwxyz:.%",
    )
)
def test_what_can_be_said_can_be_read_and_be_a_file_name(text):
    spec = parse_spec(text)
    given = [value for value in (spec.patients, spec.share, spec.minutes) if value is not None]
    assert (spec.text, len(given)) == (text, 1)
    assert spec.kind == (None if text.startswith("minutes") else Supervision(text.partition(":")[0]))
    assert not set(spec.file_name) & set("/\\:%")


@given(
    st.lists(
        st.sampled_from(["masks:3p", "masks:3%", "masks:all", "tags:3p", "minutes:3", "minutes:3.0", "masks:30%"]),
        unique=True,
    )
)
def test_no_two_spellings_share_a_file(texts):
    assert len({parse_spec(text).file_name for text in texts}) == len(texts)


@pytest.mark.parametrize("spec", ["masks:13p", "masks:0p", "masks:0%", "masks:101%"])
def test_what_cannot_be_bought(spec):
    with pytest.raises(ConfigError, match=r"patients, the training part has 12 patients with masks$"):
        parse_spec(spec).patients_of(12)


@given(st.integers(1, 7), st.integers(1, 7), replicates)
def test_budgets_are_nested(tiny_data, small, large, replicate):
    assume(small <= large)
    less, more = (
        draw_budget(tiny_data.store, tiny_data.split, f"masks:{n}p", replicate).patients for n in (small, large)
    )
    assert more[:small] == less
    assert set(more) <= set(tiny_data.split.patients("train"))


def test_a_small_budget_shows_every_class_and_both_diagnoses(tiny_data):
    for replicate in range(20):
        budget = draw_budget(tiny_data.store, tiny_data.split, "masks:2p", replicate)
        slides = [s.slide_id for s in tiny_data.store.slides.values() if s.patient_id in budget.patients]
        shown = [tiny_data.store.withheld.class_pixels(slide_id) for slide_id in slides]
        assert all(sum(counts) > 0 for counts in zip(*shown, strict=True))


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
    ]
    assert len({one.sha256 for one in (budget, *others)}) == len(others) + 1


BOTH = Spending(masks=0.75, tags=0.25, diagnoses=True)


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
    assert len(list(tmp_path.rglob("*.json"))) == 12
    for spending in (ALL_ON_MASKS, BOTH, Spending(0.5, 0.5), Spending(0, 1), Spending(1, 0, True)):
        persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "minutes:21", 0, spending)
        persisted_budget(tmp_path, tiny_data.store, tiny_data.split, "tags:3p", 0, spending)  # asks no method
    names = {path.name for path in tmp_path.rglob("*.json")}
    assert len(list(tmp_path.rglob("*.json"))) == 12 + 5 + 1
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
    with pytest.raises(DataError, match=r"masks-4p-r0\.json: holds another budget than its name says"):
        persisted_budget(tmp_path, store, split, "masks:4p", 0)
    same = {"spec": "masks:3p", "replicate": 0, "split_sha256": split.sha256, "spending": ""}
    write_hashed_json(path, {**same, **content})
    with pytest.raises(DataError, match=r"masks-3p-r0\.json: is not a budget of this version; delete it"):
        persisted_budget(tmp_path, store, split, "masks:3p", 0)


@pytest.mark.parametrize("spec", ["masks:99p", "masks:lots", "masks:../../x", "tags:99p", "minutes:1", "minutes:0"])
def test_a_budget_that_cannot_be_drawn_leaves_no_file(tiny_data, tmp_path, spec):
    with pytest.raises(ConfigError):
        persisted_budget(tmp_path / "budgets", tiny_data.store, tiny_data.split, spec, 0)
    assert list(tmp_path.rglob("*")) == []


def whole_slides(patient, count, tagged=False):
    """The tiles of a patient as they are sold: one by one, or two slides of them."""
    tiles = [Tile(f"{patient}-{n % 2}", 0, 32 * n) for n in range(count)]
    if not tagged:
        return [(tile,) for tile in tiles]
    slides = [tuple(tile for tile in tiles if tile.slide_id == f"{patient}-{side}") for side in (0, 1)]
    return [slide for slide in slides if slide]


def made_up(cohort, price, tagged=False):
    return Offer(
        minutes_per_tile=price,
        n_tiles={patient: n for patient, (_, _, n) in cohort.items()},
        strata={patient: diagnosis for patient, (diagnosis, _, _) in cohort.items()},
        classes={patient: classes for patient, (_, classes, _) in cohort.items()},
        units=lambda patient: whole_slides(patient, cohort[patient][2], tagged),
    )


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


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.5, -0.5), (float("nan"), 1), (1, 1), (float("inf"), 0)])
def test_shares_of_the_minutes_must_add_up(shares):
    with pytest.raises(ConfigError, match="must not be negative and add up to 1"):
        Spending(*shares)


@given(st.floats(0, 1))
def test_a_split_of_the_minutes_has_a_name_of_its_own(share):
    spending = Spending(share, 1 - share)
    assert str(spending) != str(Spending(share, 1 - share, True))
    if 0.01 < share < 0.99:
        assert str(spending) != str(Spending(share + 0.001, 1 - share - 0.001))


CLASSES = ClassMap(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), {"B": ("b",), "C": ("c",)})
COSTS = LabelCosts(mask_minutes_per_tile=2, tags_minutes_per_tile=0.25, diagnosis_minutes_per_case=1)


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Ten patients, a few of whom are annotated, and those in part; two have tags that came with the slide."""
    writer = StoreWriter(tmp_path_factory.mktemp("partial") / "s.zarr", StoreInfo("partial", None, 32, COSTS), CLASSES)
    cases = {}
    for number in range(10):
        for side in range(1 + number % 2):
            slide_id, patient = f"s{number}{side}", f"p{number}"
            labels = np.full((80, 72), 255, dtype=np.uint8)  # a grid of 3 x 3 with overlaps
            if number in (0, 1, 2, 3, 9):
                labels[: 20 + 8 * number, :30] = number % 3
            tissue = np.ones((5, 5), dtype=np.uint8)
            tissue[: number % 3 * 2] = 0
            writer.add(slide_id, patient, (), np.zeros((80, 72, 3), dtype=np.uint8), labels, tissue)
            cases[slide_id] = Case(
                patient, ("BC"[number % 2],) if number < 8 else (), ("a", "c") if number in (4, 5) else None
            )
    parts = {"train": tuple(f"p{n}" for n in range(8)), "test": ("p8", "p9")}
    return writer.seal(cases), Split("partial", parts)


def annotated(store, patient):
    return {
        tile
        for slide in store.slides.values()
        if slide.patient_id == patient
        for tile in grid(slide, 32)
        if (store.withheld.mask(slide.slide_id, tile.y, tile.x, 32, 32) != 255).any()
    }


def test_patients_without_a_mask_cannot_be_bought(partial):
    store, split = partial
    budget = draw_budget(store, split, "masks:all", 0)
    assert sorted(budget.patients) == ["p0", "p1", "p2", "p3"]
    assert draw_budget(store, split, "masks:50%", 0).patients == budget.patients[:2]
    with pytest.raises(ConfigError, match=r"asks for 5 patients, the training part has 4 patients with masks$"):
        draw_budget(store, split, "masks:5p", 0)
    with pytest.raises(ConfigError, match=r"asks for 8 patients, the training part has 4 patients with tags$"):
        draw_budget(store, split, "tags:8p", 0)
    nobody = Split("nobody", {"train": ("p6", "p7")})
    with pytest.raises(
        ConfigError, match="'masks:all' asks for 0 patients, the training part has 0 patients with masks"
    ):
        draw_budget(store, nobody, "masks:all", 0)
    with pytest.raises(ConfigError, match="'minutes:60': no patient of the training part has masks"):
        draw_budget(store, nobody, "minutes:60", 0)


def test_a_mask_costs_only_the_tiles_that_somebody_annotated(partial):
    store, split = partial
    budget = draw_budget(store, split, "masks:all", 0)
    tiles = set().union(*(annotated(store, patient) for patient in budget.patients))
    assert 0 < len(tiles) < 9 * 6
    assert (budget.tiles, budget.minutes) == (len(tiles), 2 * len(tiles))


def test_tags_cost_tissue_tiles_or_the_slides_that_the_source_tags(partial):
    store, split = partial
    budget = draw_budget(store, split, "tags:all", 0)
    assert (budget.patients, budget.tiles) == ((), 0)
    tissue = {
        t: s
        for slide in store.slides.values()
        for t, s in zip(grid(slide, 32), store.tile_tissue(slide.slide_id), strict=True)
    }
    drawn = [tile for n in range(4) for tile in annotated(store, f"p{n}") if tissue[tile] >= 0.25]
    assert len(drawn) < sum(len(annotated(store, f"p{n}")) for n in range(4))
    assert budget.tags.n_tiles == len(drawn) + 3 * 9  # p4 has one tagged slide, p5 two
    assert budget.minutes == 0.25 * budget.tags.n_tiles
    assert {"p4", "p5"} < set(budget.tags.patients)


def test_a_slide_that_the_source_tags_is_bought_as_a_whole(partial):
    store, _ = partial
    split = Split("tagged", {"train": ("p5",)})
    for minutes, slides in ((2.24, None), (2.25, 1), (4.49, 1), (4.5, 2)):
        if slides is None:
            with pytest.raises(
                ConfigError, match=r"'minutes:2\.24' buys no tile with tags; the smallest that does is 'minutes:2\.25'"
            ):
                draw_budget(store, split, f"minutes:{minutes}", 0, Spending(0, 1))
            continue
        tags = draw_budget(store, split, f"minutes:{minutes}", 0, Spending(0, 1)).tags
        assert (tags.n_tiles, len({tile.slide_id for tile in tags.tiles})) == (9 * slides, slides % 2)


def test_diagnoses_are_paid_first(partial):
    store, split = partial
    spending = Spending(masks=0.5, tags=0.5, diagnoses=True)
    with pytest.raises(
        ConfigError, match="does not pay for the diagnoses of 8 training patients, which come first and cost 8 min"
    ):
        draw_budget(store, split, "minutes:7.9", 0, spending)
    with pytest.raises(
        ConfigError, match=r"'minutes:8' buys no tile with \w+; the smallest that does is 'minutes:12(\.5)?'$"
    ):
        draw_budget(store, split, "minutes:8", 0, spending)
    budget = draw_budget(store, split, "minutes:20", 0, spending)
    assert budget.diagnoses == Purchase(split.patients("train"), (), 0, 8.0)
    assert budget.mask_minutes == 6.0 >= budget.tags.minutes > 6.0 - 9 * 0.25  # a tagged slide is not bought in part
    assert budget.minutes == 8.0 + 6.0 + budget.tags.minutes
    assert list(budget.purchases) == [Supervision.MASKS, Supervision.TAGS, Supervision.DIAGNOSIS]
    only = draw_budget(store, split, "minutes:20", 0, Spending(0, 0, True))
    assert only.purchases == {Supervision.DIAGNOSIS: budget.diagnoses}


@given(st.integers(1, 99), st.booleans(), replicates, st.integers(0, 3))
def test_the_least_minutes_are_enough(partial, percent, diagnoses, replicate, digits):
    store, split = partial
    share = round(percent / 100, 2 + digits)
    spending = Spending(share, 1 - share, diagnoses)
    with pytest.raises(ConfigError) as refused:
        draw_budget(store, split, f"minutes:{8 if diagnoses else 0}", replicate, spending)
    least = str(refused.value).rpartition("'minutes:")[2].rstrip("'")
    budget = draw_budget(store, split, f"minutes:{least}", replicate, spending)
    assert min(budget.tiles, budget.tags.n_tiles) >= 1
    with pytest.raises(ConfigError):
        draw_budget(store, split, f"minutes:{float(least) - 0.01:.6f}", replicate, spending)


@given(st.integers(17, 90), st.integers(17, 90), st.sampled_from([0.0, 0.5, 0.75, 1.0]), replicates)
def test_budgets_in_minutes_are_nested(partial, one, other, share, replicate):
    store, split = partial
    found = []
    for minutes in sorted((one, other)):
        budget = draw_budget(store, split, f"minutes:{minutes}", replicate, Spending(share, 1 - share, diagnoses=True))
        assert budget.minutes <= minutes
        found.append(budget)
    less, more = found
    for kind in less.purchases:
        small, large = less.purchases[kind], more.purchases.get(kind, NOTHING)
        assert large.patients[: len(small.patients)] == small.patients
        for tile in small.tiles:
            assert tile in large.tiles or store.slides[tile.slide_id].patient_id in large.patients
        assert set(large.patients) <= set(split.patients("train"))


def test_shares_do_not_depend_on_how_minutes_are_spent(tiny_data):
    for spec in ("masks:3p", "tags:25%"):
        drawn = {draw_budget(tiny_data.store, tiny_data.split, spec, 2, s).sha256 for s in (ALL_ON_MASKS, BOTH)}
        assert len(drawn) == 1


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_tiles_are_drawn_alike_in_every_process(hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, __file__, "tiles"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split() == some_tiles()


def some_tiles():
    bought = buy_minutes(made_up({f"p{n}": ("AB"[n % 2], frozenset({n % 3}), 9) for n in range(9)}, 1.0), 33, 5)
    return [*bought.patients, *(f"{tile.slide_id}/{tile.x}" for tile in bought.tiles)]


if __name__ == "__main__":  # what another process draws
    print(*(some_tiles() if sys.argv[1:] else one_order()))


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    """One cohort under several shares: every patient shows classes that cover more and less of a tile."""
    stores = []
    for share in (0.01, 0.2, 0.5, 1.0):
        info = StoreInfo("shares", None, 32, COSTS, min_tag_share=share)
        writer = StoreWriter(tmp_path_factory.mktemp("shares") / "s.zarr", info, CLASSES)
        rng = np.random.default_rng(2)
        for number in range(9):
            labels = rng.choice(3, size=(64, 64), p=rng.dirichlet((1, 1, 1))).astype(np.uint8)
            writer.add(
                f"s{number}", f"p{number}", (), np.zeros((64, 64, 3), np.uint8), labels, np.ones((4, 4), np.uint8)
            )
        stores.append(writer.seal())
    return stores


SHARED = Split("shares", {"train": tuple(f"p{n}" for n in range(9))})


@given(st.sampled_from(range(4)), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["p", "minutes"]), replicates)
def test_tag_budgets_are_nested_whatever_a_tag_needs(shares, which, one, other, unit, replicate):
    store, (small, large) = shares[which], sorted((one, other))
    less, more = (
        draw_budget(store, SHARED, f"tags:{n}p" if unit == "p" else f"minutes:{n}", replicate, Spending(0, 1)).tags
        for n in (small, large)
    )
    assert more.patients[: len(less.patients)] == less.patients
    single = [tile for tile in less.tiles if store.slides[tile.slide_id].patient_id not in more.patients]
    assert set(single) <= set(more.tiles)


def test_what_a_tag_needs_decides_who_is_tagged_first_and_not_who_is_masked(shares):
    tags, masks = (
        {tuple(draw_budget(store, SHARED, f"{kind}:all", 3).purchases[kind].patients) for store in shares}
        for kind in (Supervision.TAGS, Supervision.MASKS)
    )
    assert len(tags) > 1
    assert len(masks) == 1
    assert {draw_budget(store, SHARED, "tags:all", 0).tags.n_tiles for store in shares} == {36}  # also without a tag
    assert len({store.content_hash for store in shares}) == 4
