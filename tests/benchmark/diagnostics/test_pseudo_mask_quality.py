"""Pseudo-masks against the masks of the same tiles: counts by hand, and what the picture shows where."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.types import ClassMap, LabelCosts, Tile
from tissuebench.diagnostics.contact_sheet import CELL, GAP, LINE, place
from tissuebench.diagnostics.pseudo_mask_quality import QUALITY, read_quality, spread, write_quality
from tissuebench.diagnostics.pseudo_mask_sheet import HATCH, PICTURE, PicturedTile, draw_sheet
from tissuebench.errors import DataError
from tissuebench.training.pseudo_mask_store import write_pseudo_masks

PX = 16
CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (230, 150, 190), (110, 60, 160)))
SPLIT = Split("made", {"train": ("p1", "p2"), "test": ("p3",)})
PINK = (200, 120, 160)


def column(*widths):
    """(16, 16) ids: so many columns of each class in turn, 255 for ``None``."""
    ids = [255 if class_id is None else class_id for class_id, width in widths for _ in range(width)]
    return np.tile(np.array(ids, dtype=np.uint8), (PX, 1))


def store_of(path, labels):
    """One pink slide a patient."""
    writer = StoreWriter(path, StoreInfo("made", 1.0, PX, LabelCosts()), CLASSES)
    for patient, of_patient in labels.items():
        image = np.full((*of_patient.shape, 3), PINK, dtype=np.uint8)
        tissue = np.ones([-(-edge // 16) for edge in of_patient.shape], dtype=np.uint8)
        writer.add(f"s-{patient}", patient, (), image, of_patient, tissue)
    return writer.seal()


@pytest.fixture
def store(tmp_path):
    """Two training slides: two tiles, one of them without annotation; one tile. And a test slide."""
    first = np.hstack([column((0, 8), (1, 8)), column((None, 16))])
    return store_of(tmp_path / "s.zarr", {"p1": first, "p2": column((2, 12), (None, 4)), "p3": column((2, 8), (1, 8))})


PSEUDO = [
    (Tile("s-p1", 0, 0), [column((0, 4), (1, 12)), column((None, 8), (1, 8))]),
    (Tile("s-p1", 0, 16), [column((2, 16)), column((2, 16))]),  # no truth
    (Tile("s-p2", 0, 0), [column((2, 16)), column((None, 10), (2, 1), (7, 1), (2, 4))]),  # 7 is no class
]
SURE = [[4, 4, 0], [0, 8, 0], [0, 0, 12]]  # columns of 16 pixels, ``counts[truth, pseudo]``
CAREFUL = [[0, 0, 0], [0, 8, 0], [0, 0, 1]]


def compared(folder, store, layers=(), pseudo=PSEUDO):
    folder.mkdir(exist_ok=True)
    write_pseudo_masks(folder, [(tile, np.stack(masks)) for tile, masks in pseudo])
    moves = []
    write_quality(folder, store, SPLIT, layers, lambda done, total: moves.append((done, total)))
    return read_quality(folder), moves


def test_counts_are_those_made_by_hand(store, tmp_path):
    got, moves = compared(tmp_path / "stage", store, ("sure", "care\n[ful]"))
    np.testing.assert_array_equal(got.counts, 16 * np.array([SURE, CAREFUL]))
    assert got.counts.dtype == np.int64
    assert (got.layers, got.annotated, got.n_tiles) == (("sure", "care\n[ful]"), 16 * 28, 2)
    assert got.coverage.tolist() == [1.0, 9 / 28]
    assert got.miou.tolist() == pytest.approx([(4 / 8 + 8 / 12 + 1) / 3, 1.0])
    assert moves == [(2, 2)]
    assert "nothing is trained on it" in json.loads((tmp_path / "stage" / QUALITY).read_text())["content"]["about"]


def test_layers_without_names_are_numbered(store, tmp_path):
    assert compared(tmp_path / "stage", store)[0].layers == ("layer 1", "layer 2")


@pytest.mark.parametrize(
    ("layers", "message"), [(("a",), r"gave 2 layers, .* names 1"), (("a", "a"), "names that differ")]
)
def test_names_that_do_not_fit_are_told(store, tmp_path, layers, message):
    with pytest.raises(DataError, match=message):
        compared(tmp_path / "stage", store, layers)
    assert not (tmp_path / "stage" / QUALITY).exists()


def test_masks_of_another_size_are_told(store, tmp_path):
    small = [(tile, [mask[:8, :8] for mask in masks]) for tile, masks in PSEUDO]
    with pytest.raises(DataError, match=r"pseudo-masks of \(8, 8\) px; tiles are of \(16, 16\)"):
        compared(tmp_path / "stage", store, pseudo=small)


def test_without_masks_of_training_tiles_nothing_is_written(tmp_path):
    blank = {name: np.full((16, 32), 255, dtype=np.uint8) for name in ("p1", "p2")}
    store = store_of(tmp_path / "s.zarr", {**blank, "p3": column((2, 16))})
    got, moves = compared(tmp_path / "stage", store)
    assert (got, moves) == (None, [])
    assert {path.suffix for path in (tmp_path / "stage").iterdir()} == {".json", ".lz4", ".npy"}
    assert not (tmp_path / "stage" / QUALITY).exists()


def test_a_damaged_file_is_named(store, tmp_path):
    compared(tmp_path / "stage", store)
    path = tmp_path / "stage" / QUALITY
    path.write_text(path.read_text().replace("448", "449"))
    with pytest.raises(DataError, match=r"quality\.json: was edited by hand"):
        read_quality(tmp_path / "stage")


def test_the_picture_shows_tiles_layers_and_truth_in_the_colours_of_the_classes(store, tmp_path):
    compared(tmp_path / "stage", store, ("sure", "care\n[ful] " * 20))
    with Image.open(tmp_path / "stage" / PICTURE) as picture:
        assert picture.format == "PNG"
        assert picture.width == GAP + 4 * (CELL + GAP)
        assert 2 * (LINE + CELL) < picture.height < 2 * (LINE + CELL) + 8 * LINE
        pixels = np.asarray(picture.convert("RGB"))

    def colours(row, place_of, *between):
        """What stands between two of the sixteen columns of a tile."""
        left, top = place(row, place_of)
        first, last = (left + at * CELL // 16 for at in between)
        return {tuple(pixel) for pixel in pixels[top : top + CELL, first:last].reshape(-1, 3).tolist()}

    glass, stroma, tumour = ({colour} for colour in CLASSES.colors)
    grey = set(HATCH)
    expected = [  # the tile of most classes first; the one without truth is not there
        [[({PINK}, 0, 16)], [(glass, 0, 4), (stroma, 4, 16)], [(grey, 0, 8), (stroma, 8, 16)], [(glass, 0, 8), (stroma, 8, 16)]],
        [[({PINK}, 0, 16)], [(tumour, 0, 16)], [(grey, 0, 10), (tumour, 10, 11), (grey, 11, 12), (tumour, 12, 16)],
         [(tumour, 0, 12), (grey, 12, 16)]],
    ]  # fmt: skip
    for row, cells in enumerate(expected):
        for place_of, parts in enumerate(cells):
            for wanted, start, stop in parts:
                assert colours(row, place_of, start, stop) == wanted
    legend = Counter(map(tuple, pixels[place(2, 0)[1] - LINE :].reshape(-1, 3).tolist()))
    assert min(legend[colour] for colour in CLASSES.colors) == 12 * 12  # edges of letters may be as light as glass
    assert min(legend[colour] for colour in HATCH) > 50


def test_the_picture_has_eight_rows_at_most_and_is_the_same_each_time(tmp_path):
    rng = np.random.default_rng(0)
    store = store_of(tmp_path / "s.zarr", {p: rng.integers(0, 3, (64, 64), dtype=np.uint8) for p in ("p1", "p2", "p3")})
    tiles = [Tile(f"s-{p}", y, x) for p in ("p1", "p2") for y in range(0, 64, 16) for x in range(0, 64, 16)]
    pseudo = [(tile, [rng.integers(0, 3, (16, 16), dtype=np.uint8)]) for tile in tiles]
    got, moves = compared(tmp_path / "stage", store, pseudo=pseudo)
    assert got.n_tiles == 32
    assert moves == [(8, 32), (16, 32), (24, 32), (32, 32)]
    before = (tmp_path / "stage" / PICTURE).read_bytes()
    with Image.open(tmp_path / "stage" / PICTURE) as picture:
        assert picture.width == GAP + 3 * (CELL + GAP)
        assert 8 * (LINE + CELL) < picture.height < 9 * (LINE + CELL)
    compared(tmp_path / "stage", store, pseudo=pseudo)
    assert (tmp_path / "stage" / PICTURE).read_bytes() == before


def test_any_names_and_many_classes_can_be_drawn():
    names = tuple(f"class «{i}» \n漢 " + "x" * (i * 7 % 90) for i in range(60))
    rng = np.random.default_rng(1)
    classes = ClassMap(names, tuple(map(tuple, rng.integers(0, 256, (60, 3)).tolist())))
    row = PicturedTile("", np.zeros((3, 40, 40), np.uint8), [np.zeros((40, 40), np.uint8)])
    sheet = draw_sheet(("image\nof it", ""), [row], classes, "a remark " * 50)
    assert sheet.width == GAP + 2 * (CELL + GAP)
    assert sheet.height > place(1, 0)[1] + 30 * LINE


def test_tiles_are_spread_over_classes_and_slides():
    shown = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]], dtype=bool)
    assert spread(shown, list("aaabba"), 4) == [1, 3, 2, 5]
    assert spread(shown, list("aacbba"), 9) == [1, 3, 2, 5, 4, 0]
    assert spread(np.array([[1], [1], [1]], dtype=bool), list("aab"), 2) == [0, 2]  # another slide before the next tile
    assert spread(np.zeros((0, 3), dtype=bool), [], 3) == []


@given(arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 5))), st.integers(1, 8))
def test_chosen_tiles_differ_begin_with_most_classes_and_show_every_class_that_fits(shown, count):
    chosen = spread(shown, ["s"] * len(shown), count)
    assert len(set(chosen)) == len(chosen) == min(count, len(shown))
    assert shown[chosen[0]].sum() == shown.sum(axis=1).max()
    if count >= shown.shape[1]:
        assert (shown[chosen].any(axis=0) == shown.any(axis=0)).all()
