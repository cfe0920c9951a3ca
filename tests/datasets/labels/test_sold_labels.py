"""Budgets of a partly annotated cohort: the masks, tags and diagnoses that are for sale, and their prices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.labels.purchases import replicates
from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.purchase import Purchase
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import ClassMap, LabelCosts, Supervision
from tissuebench.errors import ConfigError

CLASSES = ClassMap(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), {"B": ("b",), "C": ("c",)})
COSTS = LabelCosts(mask_minutes_per_tile=2, tags_minutes_per_tile=0.25, diagnosis_minutes_per_case=1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
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


def test_patients_without_a_mask_cannot_be_bought(cohort):
    store, split = cohort
    budget = draw_budget(store, split, "masks:all", 0)
    assert sorted(budget.patients) == ["p0", "p1", "p2", "p3"]
    assert {len(draw_budget(store, split, "masks:50%", replicate).patients) for replicate in range(5)} == {2}
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


def test_a_mask_costs_only_the_tiles_that_somebody_annotated(cohort):
    store, split = cohort
    budget = draw_budget(store, split, "masks:all", 0)
    tiles = set().union(*(annotated(store, patient) for patient in budget.patients))
    assert 0 < len(tiles) < 9 * 6
    assert (budget.tiles, budget.minutes) == (len(tiles), 2 * len(tiles))


def test_tags_cost_tissue_tiles_or_the_slides_that_the_source_tags(cohort):
    store, split = cohort
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


def test_a_slide_that_the_source_tags_is_bought_as_a_whole(cohort):
    store, _ = cohort
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


def test_diagnoses_are_paid_first(cohort):
    store, split = cohort
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
def test_the_least_minutes_are_enough(cohort, percent, diagnoses, replicate, digits):
    store, split = cohort
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
def test_budgets_in_minutes_are_nested(cohort, one, other, share, replicate):
    store, split = cohort
    found = []
    for minutes in sorted((one, other)):
        budget = draw_budget(store, split, f"minutes:{minutes}", replicate, Spending(share, 1 - share, diagnoses=True))
        assert budget.minutes <= minutes
        found.append(budget)
    less, more = found
    for kind in less.purchases:
        small, large = less.purchases[kind], more.purchases[kind]
        assert set(small.patients) <= set(large.patients) <= set(split.patients("train"))
        for tile in small.tiles:
            assert tile in large.tiles or store.slides[tile.slide_id].patient_id in large.patients


@given(st.integers(1, 7), replicates)
def test_opening_a_slide_is_paid_for_each_kind_of_label(cohort, opening, replicate):
    store, split = cohort
    dear = LabelCosts(2, 0.25, 0, opening)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "info", replace(store.info, costs=dear))
        budget = draw_budget(store, split, "minutes:60", replicate, Spending(0.5, 0.5))
        view = LabelView.for_training(store, split, budget, frozenset({Supervision.MASKS}))
        masked = {tile.slide_id for tile in view.mask_tiles()}
        assert budget.mask_minutes == 2 * budget.tiles + opening * len(masked) <= 30
        whole = draw_budget(store, split, "masks:all", replicate)
        slides = {tile.slide_id for patient in whole.patients for tile in annotated(store, patient)}
        assert whole.minutes == 2 * whole.tiles + opening * len(slides)


@pytest.mark.parametrize("spec", ["masks:2p", "minutes:20", "tags:3p", "minutes:4"])
def test_no_draw_depends_on_what_a_label_says(cohort, tmp_path, spec):
    """Masks replaced by noise in the same annotated pixels, tags of slides by others: the same is bought."""
    store, split = cohort
    rng = np.random.default_rng(5)
    writer = StoreWriter(tmp_path / "s.zarr", store.info, CLASSES)
    cases = {}
    for slide in store.slides.values():
        labels = store.withheld.mask(slide.slide_id, 0, 0, slide.height, slide.width)
        noise = np.where(labels == 255, 255, rng.integers(3, size=labels.shape)).astype(np.uint8)
        writer.add(
            slide.slide_id, slide.patient_id, (), np.zeros((80, 72, 3), np.uint8), noise, store.tissue(slide.slide_id)
        )
        tags = None if store.withheld.tags(slide.slide_id) is None else ("b",)
        cases[slide.slide_id] = Case(slide.patient_id, store.withheld.diagnosis(slide.slide_id), tags)
    poisoned = writer.seal(cases)
    assert poisoned.content_hash != store.content_hash
    spending = Spending(0, 1) if spec == "minutes:4" else Spending()
    for replicate in range(10):
        drawn = [draw_budget(one, split, spec, replicate, spending).document() for one in (store, poisoned)]
        assert drawn[0] == drawn[1]


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
    assert set(less.patients) <= set(more.patients)
    single = [tile for tile in less.tiles if store.slides[tile.slide_id].patient_id not in more.patients]
    assert set(single) <= set(more.tiles)


def test_what_a_tag_needs_does_not_decide_who_is_tagged(shares):
    for spec in ("tags:4p", "masks:4p"):
        drawn = {tuple(draw_budget(store, SHARED, spec, 3).purchases.items()) for store in shares}
        assert len(drawn) == 1
    assert {draw_budget(store, SHARED, "tags:all", 0).tags.n_tiles for store in shares} == {36}  # also without a tag
    assert len({store.content_hash for store in shares}) == 4
