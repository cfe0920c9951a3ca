"""Bought tags: of tiles or of the source, under the rule of the data set, without opening any mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.datasets.labels.partial_stores import (
    ALL_KINDS,
    MASKS_ONLY,
    PARTIAL,
    PARTIAL_SPLIT,
    TAGGED,
    TAGS_ONLY,
    bought_with,
    partly_annotated,
)
from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.purchase import Purchase
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.sampling import stream_tree
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import LabelCosts, Stream, Supervision, Tile
from tissuebench.datasets.weak_labels import tags_of_mask
from tissuebench.errors import WithheldLabelError


def test_tags_open_where_they_were_bought_and_masks_do_not(partial):
    budget, view = bought_with(partial, "tags:all", kinds=ALL_KINDS)
    assert view.mask_tiles() == []
    assert view.mask_slides == ()
    tiles = view.tag_tiles()
    assert len(tiles) == budget.tags.n_tiles
    for slide in view.slides:
        tissue = partial.tile_tissue(slide.slide_id)
        for tile, share in zip(grid(slide, 32), tissue, strict=True):
            truth = partial.withheld.mask(slide.slide_id, tile.y, tile.x, 32, 32)
            with pytest.raises(WithheldLabelError, match="not bought"):
                view.mask(tile, 32, 32)
            if slide.patient_id == TAGGED:
                assert view.tags(tile, 32).tolist() == [False, True, False, True]
            elif share >= 0.25 and (truth != 255).any():
                assert np.array_equal(view.tags(tile, 32), tags_of_mask(truth, 4))
            else:
                assert tile not in tiles
                with pytest.raises(WithheldLabelError, match="not bought"):
                    view.tags(tile, 32)
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.tags(replace(tiles[0], y=tiles[0].y + 1), 24)  # tags were bought of tiles, not of every region


def test_tags_of_the_source_are_served_where_tags_were_bought(partial):
    tagged = [slide.slide_id for slide in partial.slides.values() if slide.patient_id == TAGGED]
    _, view = bought_with(partial, "tags:all", kinds=TAGS_ONLY)
    for slide in view.slides:
        if slide.slide_id in tagged:
            assert view.image_tags(slide.slide_id).tolist() == [False, True, False, True]
        elif slide.patient_id != "p4":
            assert view.image_tags(slide.slide_id) is None
        else:
            with pytest.raises(WithheldLabelError, match="not bought"):
                view.image_tags(slide.slide_id)
    _, masks = bought_with(partial, "masks:all", kinds=ALL_KINDS)
    _, deaf = bought_with(partial, "tags:all", kinds=MASKS_ONLY)
    for closed in (masks, deaf):
        for slide_id in tagged:
            with pytest.raises(WithheldLabelError, match=slide_id):
                closed.image_tags(slide_id)


def test_a_method_that_does_not_consume_tags_gets_none_of_the_bought_ones(partial):
    _, view = bought_with(partial, "tags:all", kinds=MASKS_ONLY)
    assert view.tag_tiles() == []
    _, both = bought_with(partial, "tags:all", kinds=ALL_KINDS)
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.tags(both.tag_tiles()[0], 32)


def test_a_budget_that_names_tiles_without_a_label_opens_no_tag(partial):
    budget, _ = bought_with(partial, "masks:1p")
    unknown = Tile("s08", 0, 0)  # nobody annotated it
    greedy = replace(budget, patients=(), tags=Purchase((), (unknown,)), mask_tiles=(unknown, Tile("s00", 1, 1)))
    view = LabelView.for_training(partial, PARTIAL_SPLIT, greedy, TAGS_ONLY)
    assert view.tag_tiles() == []
    no_mask = replace(greedy, mask_tiles=())
    with pytest.raises(WithheldLabelError, match="not bought"):
        LabelView.for_training(partial, PARTIAL_SPLIT, no_mask, TAGS_ONLY).tags(unknown, 32)


def test_a_bought_mask_says_more_than_the_tags_of_the_source(tmp_path):
    writer = StoreWriter(tmp_path / "s.zarr", StoreInfo("both", None, 32, LabelCosts()), PARTIAL)
    labels = np.full((32, 96), 2, dtype=np.uint8)
    writer.add("s", "p", (), np.zeros((32, 96, 3), np.uint8), labels, np.ones((2, 6), np.uint8))
    store = writer.seal({"s": Case("p", (), ("b", "d"))})
    split = Split("both", {"train": ("p",)})
    budget = draw_budget(store, split, "minutes:5", 0, Spending(0.8, 0.2))
    (masked,) = budget.mask_tiles[:1]
    view = LabelView.for_training(store, split, budget, ALL_KINDS)
    for tile in grid(store.slides["s"], 32):
        expected = [2] if tile in budget.mask_tiles else [1, 3]
        assert np.flatnonzero(view.tags(tile, 32)).tolist() == expected
        both = view.tags_of([tile, masked])
        assert [np.flatnonzero(row).tolist() for row in both] == [expected, [2]]


SHARE = 0.6  # of a tile's annotated pixels; blocks of four classes rarely cover so much


@pytest.fixture(scope="module")
def demanding(tmp_path_factory):
    """The same slides, where a tag names what covers most of a tile."""
    return partly_annotated(tmp_path_factory.mktemp("demanding") / "s.zarr", min_tag_share=SHARE)


def test_tags_follow_the_rule_of_the_dataset_and_balancing_does_not(partial, demanding):
    assert (partial.info.min_tag_share, demanding.info.min_tag_share) == (0.01, SHARE)
    (_, view), (_, plain) = (bought_with(store, "masks:all", kinds=ALL_KINDS) for store in (demanding, partial))
    tiles = view.tag_tiles()
    assert tiles == plain.tag_tiles()
    counts = np.stack([np.bincount(view.mask(tile, 32, 32).ravel(), minlength=256)[:4] for tile in tiles])
    covered = counts / counts.sum(axis=1, keepdims=True)
    assert np.array_equal(view.tags_of(tiles), covered >= SHARE)
    assert np.array_equal(np.stack([view.tags(tile, 32) for tile in tiles]), covered >= SHARE)
    inside = Tile(tiles[0].slide_id, tiles[0].y + 1, tiles[0].x + 1)
    assert np.array_equal(view.tags(inside, 30), tags_of_mask(view.mask(inside, 30, 30), 4, SHARE))
    untagged = ~(covered >= SHARE).any(axis=1)
    assert 0 < view.n_untagged == untagged.sum() < len(tiles)
    assert plain.n_untagged == 0

    masks = view.mask_tiles()
    assert np.array_equal(view.shown_by_masks(masks), plain.tags_of(masks))
    trees = [
        stream_tree("s", Stream(Supervision.MASKS, 4), *pair, 32, 0) for pair in ((demanding, view), (partial, plain))
    ]
    assert trees[0] == trees[1]
    tags = Stream(Supervision.TAGS, 4)
    by_class = stream_tree("s", tags, demanding, view, 32, 0)
    assert {tile for group in by_class for tile in group} == {
        t for t, none in zip(tiles, untagged, strict=True) if not none
    }
    assert set(stream_tree("s", replace(tags, balanced=False), demanding, view, 32, 0)) == set(tiles)


def test_what_masks_show_is_closed_where_only_tags_were_bought(demanding):
    _, view = bought_with(demanding, "tags:all", kinds=ALL_KINDS)
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.shown_by_masks(view.tag_tiles())
    _, deaf = bought_with(demanding, "masks:all", kinds=TAGS_ONLY)
    with pytest.raises(WithheldLabelError, match="not among the labels"):
        deaf.shown_by_masks(grid(deaf.slides[0], 32))
