"""Label views of patients bought in part: exactly the bought tiles are open."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.labels.partial_stores import (
    ALL_KINDS,
    MASKS_ONLY,
    PARTIAL_SPLIT,
    TAGGED,
    TAGS_ONLY,
    bought_with,
    partly_annotated,
)
from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.open_tiles import grid_index
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.sampling import stream_tree
from tissuebench.datasets.store.tile_store import SlideInfo
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import Stream, Supervision, Tile
from tissuebench.datasets.weak_labels import tags_of_mask
from tissuebench.errors import WithheldLabelError


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 70))
def test_where_a_tile_stands_in_the_grid(height, width, tile_px):
    slide = SlideInfo("s", "p", height, width, 1.0)
    tiles = grid(slide, tile_px)
    assert [grid_index(slide, tile.y, tile.x, tile_px) for tile in tiles] == list(range(len(tiles)))
    places = {(tile.y, tile.x) for tile in tiles}
    for y in range(-tile_px, height + 1, max(1, height // 9)):
        for x in range(-tile_px, width + 1, max(1, width // 9)):
            assert (grid_index(slide, y, x, tile_px) is None) == ((y, x) not in places)


@given(st.integers(2, 60), st.integers(0, 2**20))
def test_a_patient_bought_in_part_shows_the_bought_tiles_and_not_a_pixel_more(partial, minutes, replicate):
    budget, view = bought_with(partial, f"minutes:{minutes}", replicate)
    open_tiles = set(view.mask_tiles())
    assert len(open_tiles) == budget.tiles
    assert set(budget.mask_tiles) <= open_tiles
    assert view.mask_tiles() == sorted(open_tiles, key=lambda tile: (tile.slide_id, tile.y, tile.x))
    for slide in partial.slides.values():
        for tile in grid(slide, 32):
            truth = partial.withheld.mask(slide.slide_id, tile.y, tile.x, 32, 32)
            if slide.patient_id in budget.patients or tile in budget.mask_tiles:
                assert np.array_equal(view.mask(tile, 32, 32), truth)
                assert np.array_equal(view.tags(tile, 32), tags_of_mask(truth, 4))
                assert (tile in open_tiles) == bool((truth != 255).any())
                inside = Tile(tile.slide_id, tile.y + 5, tile.x + 9)
                assert np.array_equal(view.mask(inside, 27, 20), truth[5:32, 9:29])
            else:
                for ask in (lambda tile=tile: view.mask(tile, 32, 32), lambda tile=tile: view.tags(tile, 32)):
                    with pytest.raises(WithheldLabelError, match="not bought by the budget"):
                        ask()
    for tile in budget.mask_tiles:
        for y, x, height, width in ((-1, 0, 32, 32), (0, 1, 32, 32), (0, 0, 33, 32), (0, 0, 1, 33), (31, 31, 2, 1)):
            region = (tile.y + y, tile.x + x, height, width)
            if not any(
                t.slide_id == tile.slide_id
                and t.y <= region[0]
                and t.x <= region[1]
                and region[0] + height <= t.y + 32
                and region[1] + width <= t.x + 32
                for t in budget.mask_tiles
            ):
                with pytest.raises(WithheldLabelError, match="not bought by the budget"):
                    view.mask(Tile(tile.slide_id, region[0], region[1]), height, width)


def test_many_masks_and_tags_are_those_of_each_tile(partial):
    _, view = bought_with(partial, "masks:3p")
    tiles = view.mask_tiles()[::-2]
    assert len(tiles) > 5
    assert np.array_equal(view.masks(tiles, 32), np.stack([view.mask(tile, 32, 32) for tile in tiles]))
    assert np.array_equal(view.tags_of(tiles), np.stack([view.tags(tile, 32) for tile in tiles]))
    assert view.tags_of([]).shape == (0, 4)
    shut = next(slide for slide in view.slides if slide not in view.mask_slides)
    for ask in (lambda t: view.masks(t, 32), view.tags_of):
        with pytest.raises(WithheldLabelError, match=shut.slide_id):
            ask([*tiles, Tile(shut.slide_id, 0, 0)])
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.tags_of([replace(tiles[0], y=1)])  # no tile of the grid
    off_grid = replace(tiles[0], y=1)
    assert np.array_equal(view.tags(off_grid, 24), tags_of_mask(view.mask(off_grid, 24, 24), 4))


def test_a_view_is_the_same_in_a_worker_process(partial):
    _, view = bought_with(partial, "minutes:30", kinds=ALL_KINDS, spending=Spending(0.5, 0.5))
    copy = pickle.loads(pickle.dumps(view))
    tiles = view.tag_tiles()
    assert copy.tag_tiles() == tiles
    assert np.array_equal(copy.tags_of(tiles), view.tags_of(tiles))


@pytest.mark.parametrize(
    ("spec", "kinds", "spending"),
    [
        ("minutes:20", MASKS_ONLY, Spending()),
        ("minutes:20", TAGS_ONLY, Spending(0, 1)),
        ("minutes:33", ALL_KINDS, Spending(0.7, 0.3)),
        ("tags:2p", TAGS_ONLY, Spending()),
        ("masks:2p", ALL_KINDS, Spending()),
    ],
)
def test_garbage_in_what_was_not_bought_changes_nothing(partial, tmp_path, spec, kinds, spending):
    """Poisoned labels, tile by tile: the same budget opened on a store whose withheld labels are noise."""
    budget, view = bought_with(partial, spec, 1, kinds, spending)
    rng = np.random.default_rng(0)

    def poison(labels, slide_id):
        slide = partial.slides[slide_id]
        kept = np.zeros(labels.shape, dtype=bool)
        if slide.patient_id in budget.patients:
            kept[:] = True
        for tile in (*budget.mask_tiles, *(t for t in view.tag_tiles() if slide.patient_id != TAGGED)):
            if tile.slide_id == slide_id:
                kept[tile.y : tile.y + 32, tile.x : tile.x + 32] = True
        # Of a tile that was not bought, not even whether anything is annotated may matter.
        return np.where(kept, labels, rng.choice([0, 1, 2, 3, 255], labels.shape).astype(np.uint8))

    bad = partly_annotated(tmp_path / "bad.zarr", poison)
    assert bad.content_hash != partial.content_hash
    other = LabelView.for_training(bad, PARTIAL_SPLIT, budget, kinds)
    partly = {tile.slide_id for tile in (*budget.mask_tiles, *budget.tags.tiles)}
    assert [t for t in view.mask_tiles() if t.slide_id in partly] == [
        t for t in other.mask_tiles() if t.slide_id in partly
    ]
    tiles = view.tag_tiles()
    assert tiles
    assert np.array_equal(view.tags_of(tiles), other.tags_of(tiles))
    masked = view.mask_tiles()
    assert np.array_equal(view.masks(masked, 32), other.masks(masked, 32))


def test_sampling_sees_the_bought_tiles_and_no_tile_that_nobody_annotated(partial):
    budget, view = bought_with(partial, "minutes:21", kinds=ALL_KINDS)
    tree = stream_tree("s", Stream(Supervision.MASKS, 4), partial, view, 32, 0)
    shown = {tile: np.flatnonzero(view.tags(tile, 32)).tolist() for tile in view.mask_tiles()}
    assert {tile for group in tree for tile in group} == set(shown)
    assert len(shown) == budget.tiles == 10
    for class_id, group in zip(sorted({c for classes in shown.values() for c in classes}), tree, strict=True):
        assert set(group) == {tile for tile, classes in shown.items() if class_id in classes}
    _, tags = bought_with(partial, "tags:all", kinds=TAGS_ONLY)
    tree = stream_tree("s", Stream(Supervision.TAGS, 4), partial, tags, 32, 0)
    assert {tile for group in tree for tile in group} == set(tags.tag_tiles())
