"""Reading a tile store: regions, batches, tables, other processes, and damaged or unknown arrays."""

from __future__ import annotations

import json
import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.store.toy_stores import CLASSES, HEIGHT, INFO, WIDTH, slide, written
from tests.properties import examples
from tissuebench.datasets.store.shards import ShardCache
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import Tile
from tissuebench.errors import DataError


def expected_region(array, y, x, height, width):
    padded = np.full((*array.shape[:-2], height, width), 255, dtype=np.uint8)
    found = array[..., y : y + height, x : x + width]
    padded[..., : found.shape[-2], : found.shape[-1]] = found
    return padded


@pytest.mark.parametrize(
    "region",
    [
        (0, 0, 256, 256),
        (256, 512, 256, 256),
        (3, 7, 100, 301),
        (250, 250, 20, 20),
        (0, 0, HEIGHT, WIDTH),
        (HEIGHT - 10, WIDTH - 5, 32, 32),
        (HEIGHT, WIDTH, 8, 8),
        (0, 0, HEIGHT + 3, 10),
    ],
)
def test_regions_are_the_pixels_that_went_in(big, region):
    store, (image, labels, tissue) = big
    y, x, height, width = region
    assert np.array_equal(store.image("S1", *region), expected_region(image.transpose(2, 0, 1), y, x, height, width))
    assert np.array_equal(store.withheld.mask("S1", *region), expected_region(labels, y, x, height, width))
    assert np.array_equal(store.tissue("S1"), tissue)


@examples(60)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 90), st.integers(1, 90))
def test_any_region_has_its_size_and_is_padded_with_255(tiny_data, y, x, height, width):
    store = tiny_data.store
    whole = store.image("slide00", 0, 0, 64, 96)
    found = store.image("slide00", y, x, height, width)
    assert found.shape == (3, height, width)
    assert np.array_equal(found, expected_region(whole, y, x, height, width))


def test_what_is_known_of_slides_and_store(big):
    store, (image, labels, tissue) = big
    assert (store.info, store.class_map) == (INFO, CLASSES)
    info = store.slides["S1"]
    assert (info.patient_id, info.height, info.width) == ("PS1", *image.shape[:2])
    assert info.tissue_fraction == pytest.approx(tissue.mean(), abs=1e-6)
    assert store.withheld.diagnosis("S1") == ("A",)
    assert store.withheld.class_pixels("S1") == tuple(int((labels == value).sum()) for value in range(3))


def test_a_region_is_the_callers_own(small):
    before = small.image("S1", 0, 0, 8, 8).copy()
    small.image("S1", 0, 0, 8, 8)[:] = 0
    small.tissue("S1")[:] = 0
    assert np.array_equal(small.image("S1", 0, 0, 8, 8), before)
    assert np.array_equal(small.tissue("S1"), slide(1)[2])


@examples(40)
@given(
    st.lists(st.tuples(st.sampled_from(["S1", "S2"]), st.integers(0, 60), st.integers(0, 60)), min_size=1),
    st.integers(1, 70),
)
def test_a_batch_is_its_tiles(two, tiles, size):
    tiles = [Tile(*tile) for tile in tiles]
    images, masks = two.images(tiles, size), two.withheld.masks(tiles, size)
    assert images.shape == (len(tiles), 3, size, size)
    for tile, image, mask in zip(tiles, images, masks, strict=True):
        assert np.array_equal(image, two.image(tile.slide_id, tile.y, tile.x, size, size))
        assert np.array_equal(mask, two.withheld.mask(tile.slide_id, tile.y, tile.x, size, size))


@examples(60)
@given(st.integers(0, HEIGHT + 20), st.integers(0, WIDTH + 20), st.integers(1, 600), st.integers(1, 600))
def test_regions_over_chunks_and_edges(big, y, x, height, width):
    store, (image, labels, _) = big
    cyx = image.transpose(2, 0, 1)
    assert np.array_equal(store.image("S1", y, x, height, width), expected_region(cyx, y, x, height, width))
    assert np.array_equal(store.withheld.mask("S1", y, x, height, width), expected_region(labels, y, x, height, width))


def test_the_tile_tables(big):
    store, (_, labels, tissue) = big
    tiles = grid(store.slides["S1"], 32)
    classes, shares = store.withheld.tile_class_pixels("S1"), store.tile_tissue("S1")
    assert (classes.shape, shares.shape) == ((len(tiles), 3), (len(tiles),))
    for tile, counted, share in list(zip(tiles, classes, shares, strict=True))[::7]:
        part = labels[tile.y : tile.y + 32, tile.x : tile.x + 32]
        assert counted.tolist() == [int((part == value).sum()) for value in range(3)]
        y, x = tile.y // 16, tile.x // 16
        assert share == pytest.approx(tissue[y : y + 2, x : x + 2].mean())


def test_tables_follow_their_slides(two):
    """Slides lie one after the other in one table: each finds its own rows."""
    for slide_id, seed in (("S1", 1), ("S2", 2)):
        labels = slide(seed)[1]
        (first, *_), counted = grid(two.slides[slide_id], 32), two.withheld.tile_class_pixels(slide_id)[0]
        part = labels[first.y : first.y + 32, first.x : first.x + 32]
        assert counted.tolist() == [int((part == value).sum()) for value in range(3)]


def test_no_store(tmp_path):
    with pytest.raises(DataError, match="no such store"):
        TileStore(tmp_path / "store.zarr")


@pytest.mark.parametrize("where", ["index", "chunk", "cut"])
def test_a_damaged_shard_is_noticed(tmp_path, where):
    store = written(tmp_path / "store.zarr", {"S1": ((), slide(1))})
    shard = next((store.path / "slides" / "S1" / "0" / "c").rglob("0/0/0"))
    content = bytearray(shard.read_bytes())
    if where == "index":
        content[-9] ^= 1
    elif where == "chunk":
        content[4:40] = bytes(36)
    else:
        content = content[:10]
    shard.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        TileStore(store.path).image("S1", 0, 0, 8, 8)


@pytest.mark.parametrize("change", [("data_type", "uint16"), ("zarr_format", 2), ("codecs", []), ("shape", "x")])
def test_an_array_of_another_layout_is_refused(small, change):
    path = small.path / "slides" / "S1" / "0" / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), change[0]: change[1]}))
    with pytest.raises(DataError, match="not an array of a tile store"):
        TileStore(small.path).image("S1", 0, 0, 8, 8)


def test_few_shards_stay_open(two):
    store = TileStore(two.path)
    store._shards = ShardCache(max_open=2)
    for _ in range(2):
        for slide_id in ("S1", "S2"):
            assert np.array_equal(store.image(slide_id, 3, 4, 20, 20), two.image(slide_id, 3, 4, 20, 20))
            assert np.array_equal(store.withheld.mask(slide_id, 0, 0, 9, 9), two.withheld.mask(slide_id, 0, 0, 9, 9))
    assert len(store._shards._open) == 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_store_that_was_read_from_goes_to_another_process(big, method):
    """Unaligned reads over several chunks, after the parent has read: the case that deadlocks other readers."""
    store, _ = big
    region, label = ("S1", 5, 7, 700, 300), ("S1", 250, 250, 20, 20)
    here = store.image(*region), store.withheld.mask(*label)
    with multiprocessing.get_context(method).Pool(2) as pool:
        waiting = [pool.apply_async(store.image, region), pool.apply_async(store.withheld.mask, label)] * 2
        there = [answer.get(timeout=60) for answer in waiting]
    for found, expected in zip(there, here * 2, strict=True):
        assert np.array_equal(found, expected)


def test_a_pickled_store_reads(small):
    small.image("S1", 0, 0, 4, 4)
    payload = pickle.dumps(small)
    assert len(payload) < 5000  # no decoded slide travels
    copy = pickle.loads(payload)
    assert np.array_equal(copy.image("S2", 0, 0, 40, 50), small.image("S2", 0, 0, 40, 50))
    assert np.array_equal(copy.withheld.mask("S1", 1, 2, 5, 6), small.withheld.mask("S1", 1, 2, 5, 6))


def test_an_unknown_slide_is_named(small):
    with pytest.raises(DataError, match="no slide 'S9'"):
        small.image("S9", 0, 0, 1, 1)
