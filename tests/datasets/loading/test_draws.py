"""Drawing tiles from a stream: balanced by class and by case, or uniform over tiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.loading.steps import DIAGNOSED, MASKS
from tests.properties import examples
from tissuebench.datasets.loading.sampling import draw, stream_tree
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import Stream, Supervision, Tile
from tissuebench.errors import ConfigError


def drawn(tiny_data, view, stream, n=6000):
    tree = stream_tree("s", stream, tiny_data.store, view, 32, 0)
    rng = np.random.default_rng(0)
    return tree, Counter(draw(tree, rng) for _ in range(n))


def test_classes_are_drawn_equally_often(tiny_data, view):
    tree, counts = drawn(tiny_data, view, MASKS)
    shown = {tile: np.flatnonzero(view.tags(tile, 32)) for slide in view.mask_slides for tile in grid(slide, 32)}
    assert len(tree) == 4
    for class_id, group in enumerate(tree):
        assert set(group) == {tile for tile, classes in shown.items() if class_id in classes}
    # a tile's share: a quarter from each class that it shows, divided by how many tiles show that class
    for tile, classes in shown.items():
        expected = sum(0.25 / len(tree[class_id]) for class_id in classes)
        assert counts[tile] / 6000 == pytest.approx(expected, abs=0.02)


def test_excluded_classes_and_cases_are_drawn_equally_often(tiny_data, view):
    """Of seven training cases four have diagnosis A: each of those is drawn 1/8 of the time, each B 1/6."""
    _, counts = drawn(tiny_data, view, DIAGNOSED)
    cases = Counter()
    for tile, count in counts.items():
        cases[tile.slide_id] += count
    for slide_id, count in cases.items():
        expected = {"A": 1 / 2 / 4, "B": 1 / 2 / 3}[view.diagnosis(slide_id)[0]]
        assert count / 6000 == pytest.approx(expected, abs=0.02)


def test_cases_are_drawn_equally_often_without_labels(tiny_data, view):
    _, counts = drawn(tiny_data, view, Stream(Supervision.NONE, 1))
    cases = Counter()
    for tile, count in counts.items():
        cases[tile.slide_id] += count
    assert len(cases) == 7
    assert all(count / 6000 == pytest.approx(1 / 7, abs=0.02) for count in cases.values())


def test_weak_streams_draw_tissue(tiny_data, view, monkeypatch):
    _, counts = drawn(tiny_data, view, DIAGNOSED)
    for slide in view.slides:
        tissue = tiny_data.store.tissue(slide.slide_id)  # at 1/16: a tile of 32 px is 2 x 2
        shares = {tile: tissue[tile.y // 16 :, tile.x // 16 :][:2, :2].mean(dtype=float) for tile in grid(slide, 32)}
        expected = {tile for tile, share in shares.items() if share >= 0.25}
        assert {tile for tile in counts if tile.slide_id == slide.slide_id} == (expected or set(shares))


def test_unbalanced_is_uniform_over_tiles(tiny_data, view):
    tree, counts = drawn(tiny_data, view, replace(MASKS, balanced=False))
    assert all(isinstance(tile, Tile) for tile in tree)
    assert len(tree) == 3 * 6
    assert all(count / 6000 == pytest.approx(1 / 18, abs=0.015) for count in counts.values())


def test_cases_that_exclude_nothing_are_left_out(tiny_data, view, monkeypatch):
    silent = next(slide.slide_id for slide in view.slides if view.diagnosis(slide.slide_id) == ("A",))
    diagnosis = view.diagnosis
    monkeypatch.setattr(view, "_excluded", {})  # what was asked for before
    monkeypatch.setattr(view, "diagnosis", lambda slide_id: () if slide_id == silent else diagnosis(slide_id))
    _, counts = drawn(tiny_data, view, DIAGNOSED, 500)
    assert silent not in {tile.slide_id for tile in counts}
    monkeypatch.setattr(view, "_excluded", {})
    monkeypatch.setattr(view, "diagnosis", lambda _: ())
    with pytest.raises(ConfigError, match=r"stream 's' .*has no tile"):
        stream_tree("s", DIAGNOSED, tiny_data.store, view, 32, 0)


@examples(50)
@given(st.recursive(st.integers(0, 50), lambda branch: st.lists(branch, min_size=1, max_size=4), max_leaves=30))
def test_a_draw_is_a_leaf(nested):
    def tree(node):
        return Tile("S", node, 0) if isinstance(node, int) else tuple(tree(branch) for branch in node)

    def leaves(node):
        return {node} if isinstance(node, int) else set().union(*(leaves(branch) for branch in node))

    rng = np.random.default_rng(0)
    assert {draw(tree(nested), rng).y for _ in range(20)} <= leaves(nested)
