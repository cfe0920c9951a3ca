from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.errors import ConfigError
from tissuebench.inspection.budgets import describe_budgets, print_budgets, to_json

CLASSES = ClassMap(("gland", "[red]stroma"), ((0, 0, 0), (1, 1, 1)), {"B": ("gland",)})
SPLIT = Split("made-up", {"train": ("p0", "p1", "p2")})
SPENDINGS = (Spending(0.5, 0.5, diagnoses=True),)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three patients, two slides each whose last row and column of tiles overlap; one slide nobody annotated."""
    rng = np.random.default_rng(1)
    costs = LabelCosts(mask_minutes_per_tile=2, tags_minutes_per_tile=0.5, diagnosis_minutes_per_case=1)
    writer = StoreWriter(tmp_path_factory.mktemp("s") / "s.zarr", StoreInfo("made-up", None, 32, costs), CLASSES)
    cases = {}
    for number in range(6):
        labels = rng.choice([0, 1, 255], size=(70, 75)).astype(np.uint8)
        labels[: 10 * number] = 255
        if number == 5:
            labels[:] = 255
        writer.add(f"s{number}", "", (), np.zeros((70, 75, 3), np.uint8), labels, np.ones((5, 5), np.uint8))
        cases[f"s{number}"] = Case(f"p{number // 2}", ("B",) if number < 2 else ())
    return writer.seal(cases)


def shown(rows, width=200):
    file = io.StringIO()
    print_budgets(Console(file=file, width=width, highlight=False), rows)
    return file.getvalue()


def test_a_row_says_what_the_budget_says(store):
    rows = describe_budgets(store, SPLIT, ["masks:1p", "masks:all"], [0, 1])
    assert [(row.budget, row.replicate, row.everything, row.kind) for row in rows] == [
        ("masks:1p", 0, False, "masks"),
        ("masks:1p", 1, False, "masks"),
        ("masks:all", 0, True, "masks"),  # once: it has no draw
    ]
    for row in rows:
        budget = draw_budget(store, SPLIT, row.budget, row.replicate)
        slides = [s for s in store.slides.values() if s.patient_id in budget.patients and s.slide_id != "s5"]
        assert (row.patients, row.whole_patients, row.slides) == (len(budget.patients),) * 2 + (len(slides),)
        assert (row.tiles, row.minutes, row.hours) == (budget.tiles, budget.minutes, budget.minutes / 60)
        assert (row.budget_minutes, row.assumed_minutes, row.spending) == (budget.minutes, 2, "")
        pixels = np.sum([store.withheld.class_pixels(s.slide_id) for s in slides], axis=0)
        assert list(row.class_pixels.values()) == pixels.tolist()
        tiles = sum(
            bool((store.withheld.mask(t.slide_id, t.y, t.x, 32, 32) == 1).any()) for s in slides for t in grid(s, 32)
        )
        assert row.class_tiles["[red]stroma"] == tiles


@given(st.integers(2, 80), st.integers(0, 2**20))
def test_pixels_of_tiles_that_overlap_are_counted_once(store, minutes, replicate):
    (row,) = describe_budgets(store, SPLIT, [f"minutes:{minutes}"], [replicate])
    budget = draw_budget(store, SPLIT, f"minutes:{minutes}", replicate)
    counts = np.zeros(256, dtype=np.int64)
    for slide in store.slides.values():
        mask = store.withheld.mask(slide.slide_id, 0, 0, slide.height, slide.width)
        bought = np.full(mask.shape, slide.patient_id in budget.patients)
        for tile in budget.mask_tiles:
            if tile.slide_id == slide.slide_id:
                bought[tile.y : tile.y + 32, tile.x : tile.x + 32] = True
        counts += np.bincount(mask[bought], minlength=256)
    assert list(row.class_pixels.values()) == counts[:2].tolist()
    in_part = {store.slides[tile.slide_id].patient_id for tile in budget.mask_tiles}
    assert (row.patients, row.whole_patients) == (len(in_part) + len(budget.patients), len(budget.patients))
    assert row.patients == min(3, row.tiles)  # dealt in turn


def test_each_kind_has_a_row_and_its_share(store):
    rows = describe_budgets(store, SPLIT, ["minutes:21", "tags:2p"], [3], SPENDINGS)
    assert [(row.budget, row.kind) for row in rows] == [
        ("minutes:21", "masks"),
        ("minutes:21", "tags"),
        ("minutes:21", "diagnosis"),
        ("tags:2p", "tags"),
    ]
    masks, tags, diagnosis, _ = rows
    assert (masks.tiles, tags.tiles, diagnosis.minutes, diagnosis.patients, diagnosis.slides) == (5, 20, 1, 1, 2)
    assert {row.budget_minutes for row in rows[:3]} == {21}
    assert {row.spending for row in rows[:3]} == {"masks0.5-tags0.5-diagnosis"}
    assert (diagnosis.class_tiles, tags.class_pixels) == ({}, {})


def test_json_holds_every_number(store):
    rows = describe_budgets(store, SPLIT, ["minutes:21"], [0], SPENDINGS)
    found = json.loads(to_json(rows))
    assert [one["kind"] for one in found] == ["masks", "tags", "diagnosis"]
    assert found[0]["class_pixels"] == rows[0].class_pixels
    assert found[0].keys() >= {"budget", "replicate", "patients", "slides", "tiles", "minutes", "hours", "class_tiles"}


def test_the_table_names_budgets_classes_and_assumptions(store):
    rows = describe_budgets(store, SPLIT, ["minutes:21", "masks:all"], [0], SPENDINGS)
    text = shown(rows)
    for needle in ("minutes:21", "masks:all", "gland", "[red]stroma", "in part", "Minutes are assumed"):
        assert needle in text
    assert "a mask takes 2 min a tile with an annotated pixel" in text
    assert "tags take 0.5 min a tile," in text
    assert "a diagnosis takes 1 min a case" in text
    (row,) = [row for row in rows if row.budget == "masks:all"]
    (line,) = [line for line in text.splitlines() if line.startswith("masks:all")]
    assert line.split()[1:8] == ["-", "masks", "3", "5", str(row.tiles), f"{row.minutes:.4g}", f"{row.hours:.3g}"]
    assert "Tags list the classes that cover at least 0.01 of a tile's annotated pixels." in text
    masks_only = shown(describe_budgets(store, SPLIT, ["masks:all"]))
    assert "tags take" not in masks_only
    assert "Tags name" not in masks_only
    assert "no budgets" in shown([])


def test_all_digits_are_there_in_a_table_of_six_long_names(store):
    (row,) = describe_budgets(store, SPLIT, ["minutes:21"])
    names = ("glass", "stroma", "normal_gland", "lymphocytes", "tumour_a", "tumour_b")
    many = replace(row, class_tiles=dict.fromkeys(names, 789), class_pixels=dict.fromkeys(names, 123_456))
    assert row.whole_patients < row.patients
    text = shown([many], width=120)
    assert (text.count("789"), text.count("123.5k")) == (6, 6)
    assert f"{row.patients - row.whole_patients} in part" in text


def test_opening_slides_is_part_of_the_minutes(store, monkeypatch):
    dear = replace(store.info.costs, opening_minutes_per_slide=1.5)
    monkeypatch.setattr(store, "info", replace(store.info, costs=dear))
    rows = describe_budgets(store, SPLIT, ["masks:1p", "minutes:21"], [0], SPENDINGS)
    for row in rows:
        price = row.assumed_minutes * (row.patients if row.kind == "diagnosis" else row.tiles)
        assert row.minutes == price + row.opening_minutes * row.slides
    assert {row.kind: row.opening_minutes for row in rows} == {"masks": 1.5, "tags": 1.5, "diagnosis": 0}
    assert "opening a slide takes 1.5 min (costs of the dataset)" in shown(rows)


def test_what_cannot_be_bought_is_one_line(store):
    for specs in (["masks:4p"], ["all"], ["masks:1p", "minutes:1"]):
        with pytest.raises(ConfigError, match=r"\A[^\n]*\Z"):
            describe_budgets(store, SPLIT, specs)


def test_tiles_whose_tags_name_nothing_are_told(store, monkeypatch):
    """Where a tag needs more of a tile, masks still show every class that is there."""
    plain = describe_budgets(store, SPLIT, ["tags:all", "masks:all"])
    monkeypatch.setattr(store, "info", replace(store.info, min_tag_share=0.52))
    tags, masks = describe_budgets(store, SPLIT, ["tags:all", "masks:all"])
    counts = np.concatenate([store.withheld.tile_class_pixels(f"s{n}") for n in range(5)])
    counts = counts[counts.sum(axis=1) > 0]
    covered = counts / counts.sum(axis=1, keepdims=True) >= 0.52
    assert list(tags.class_tiles.values()) == covered.sum(axis=0).tolist()
    assert (tags.tiles, tags.untagged_tiles, tags.min_tag_share) == (len(counts), (~covered.any(axis=1)).sum(), 0.52)
    assert tags.untagged_tiles > 0
    assert (masks, masks.untagged_tiles, masks.min_tag_share) == (plain[1], 0, None)
    said = f"at least 0.52 of a tile's annotated pixels; those of up to {tags.untagged_tiles} tiles name none."
    assert said in shown([tags, masks])
