from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuebench.datasets.store.tile_store import SlideInfo
from tissuebench.datasets.store.tiling import grid, offsets, origins
from tissuebench.datasets.store.tissue import shrink, tile_shares, tissue_mask

sides = st.integers(1, 400)
tile_sizes = st.integers(1, 96)


@given(sides, tile_sizes, st.data())
def test_offsets_cover_the_length_and_end_with_it(length, tile, data):
    stride = data.draw(st.none() | st.integers(1, tile))
    starts = offsets(length, tile, stride)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    if length <= tile:
        assert starts == [0]
        return
    assert starts[-1] + tile == length
    steps = np.diff(starts)
    assert (steps <= (stride or tile)).all()
    assert (steps[:-1] == (stride or tile)).all()


@pytest.mark.parametrize(
    ("length", "tile", "stride", "starts"),
    [(64, 32, None, [0, 32]), (65, 32, None, [0, 32, 33]), (32, 32, None, [0]), (100, 40, 30, [0, 30, 60])],
)
def test_offsets_by_hand(length, tile, stride, starts):
    assert offsets(length, tile, stride) == starts


@given(sides, sides, st.integers(8, 96))
def test_the_grid_covers_every_pixel_and_stays_inside(height, width, tile_px):
    covered = np.zeros((height, width), dtype=bool)
    tiles = grid(SlideInfo("S1", "P1", height, width, 1.0), tile_px)
    for tile in tiles:
        assert tile.slide_id == "S1"
        assert 0 <= tile.y <= max(0, height - tile_px)
        assert 0 <= tile.x <= max(0, width - tile_px)
        covered[tile.y : tile.y + tile_px, tile.x : tile.x + tile_px] = True
    assert covered.all()
    assert len(set(tiles)) == len(tiles) == -(-height // tile_px) * -(-width // tile_px)


def stained(height, width, box):
    pixels = np.full((height, width, 3), 243, dtype=np.uint8)
    y0, x0, y1, x1 = box
    pixels[y0:y1, x0:x1] = (190, 120, 170)
    return pixels


def test_stain_is_tissue_and_glass_is_not():
    mask = tissue_mask(shrink(stained(320, 480, (96, 128, 224, 320))))
    assert (mask.dtype, mask.shape) == (np.uint8, (20, 30))
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[6:14, 8:20] = 1
    blurred_edge = np.zeros_like(expected, dtype=bool)
    blurred_edge[5:15, 7:21] = True
    blurred_edge[7:13, 9:19] = False
    assert np.array_equal(mask[~blurred_edge], expected[~blurred_edge])


@given(st.integers(1, 100), st.integers(1, 100), st.integers(205, 255))
def test_glass_alone_has_no_tissue_whatever_its_size(height, width, grey):
    mask = tissue_mask(shrink(np.full((height, width, 3), grey, dtype=np.uint8)))
    assert mask.shape == (-(-height // 16), -(-width // 16))
    assert not mask.any()


def test_a_slide_that_is_all_tissue_is_all_tissue():
    assert tissue_mask(shrink(np.full((64, 64, 3), (180, 110, 160), dtype=np.uint8))).all()


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_shrinking_block_by_block_is_shrinking_the_whole(rows, columns, data):
    height, width = (16 * count - data.draw(st.integers(0, 15)) for count in (rows, columns))
    pixels = np.random.default_rng(rows * 7 + columns).integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = shrink(pixels)
    assert whole.shape == (rows, columns, 3)
    cut = 16 * data.draw(st.integers(0, rows - 1))
    assert np.array_equal(np.concatenate([shrink(pixels[:cut]), shrink(pixels[cut:])]) if cut else whole, whole)
    inner = pixels[: height // 16 * 16, : width // 16 * 16]
    mean = inner.reshape(height // 16, 16, width // 16, 16, 3).mean(axis=(1, 3))
    assert np.abs(whole[: height // 16, : width // 16] - mean).max(initial=0) <= 1


@pytest.fixture(scope="module")
def half_tissue():
    """Of a slide of 70 x 100 px; the mask marks the left 48 px, that is 3 of 7 columns."""
    tissue = np.zeros((5, 7), dtype=np.uint8)
    tissue[:, :3] = 1
    return tissue


@pytest.mark.parametrize(("y", "x", "share"), [(0, 0, 1.0), (32, 32, 0.5), (0, 64, 0.0), (38, 68, 0.0), (38, 0, 1.0)])
def test_tissue_share_of_a_tile(half_tissue, y, x, share):
    assert tile_shares(half_tissue, np.array([[y, x]]), 32) == [share]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 120), st.integers(0, 9))
def test_tissue_shares_are_means_of_the_mask(height, width, tile_px, seed):
    mask = np.random.default_rng(seed).integers(0, 2, (-(-height // 16), -(-width // 16)), dtype=np.uint8)
    starts = origins(height, width, tile_px)
    size = max(1, tile_px // 16)
    for (y, x), share in zip(starts.tolist(), tile_shares(mask, starts, tile_px), strict=True):
        assert share == pytest.approx(mask[y // 16 : y // 16 + size, x // 16 : x // 16 + size].mean())
