from __future__ import annotations

import json
import multiprocessing
import pickle
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuebench.datasets.store.shards import ShardCache
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo, TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.store.verify import verify
from tissuebench.datasets.types import ClassMap, LabelCosts, Tile
from tissuebench.errors import DataError

CLASSES = ClassMap(("glass", "a", "b"), ((240, 240, 240), (10, 20, 30), (40, 50, 60)), {"A": ("a",), "B": ("b",)})
INFO = StoreInfo("toy", 0.5, 32, LabelCosts(), "f00")
HEIGHT, WIDTH = 1100, 1301  # odd, two levels


def slide(seed: int, height: int = 40, width: int = 50):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width))
    tissue = rng.integers(0, 2, (-(-height // 16), -(-width // 16)), dtype=np.uint8)
    return image, labels, tissue


def written(path, slides, info=INFO, classes=CLASSES, codec="lz4") -> TileStore:
    writer = StoreWriter(path, info, classes, codec)
    for slide_id, (diagnosis, arrays) in slides.items():
        writer.add(slide_id, f"P{slide_id}", diagnosis, *arrays)
    return writer.seal()


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    arrays = slide(0, HEIGHT, WIDTH)
    return written(tmp_path_factory.mktemp("store") / "store.zarr", {"S1": (("A",), arrays)}), arrays


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return written(tmp_path_factory.mktemp("two") / "store.zarr", {"S1": (("A",), slide(1)), "S2": ((), slide(2))})


@pytest.fixture
def small(tmp_path):
    return written(tmp_path / "store.zarr", {"S1": (("A",), slide(1)), "S2": ((), slide(2))})


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


@settings(max_examples=60)
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


@settings(max_examples=40)
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


@settings(max_examples=60)
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


def test_pyramid_levels(big):
    store, (image, labels, _) = big
    group = zarr.open_group(store.path / "slides" / "S1", mode="r")
    assert sorted(name for name in group if name != "labels") == ["0", "1", "2"]
    level1 = group["1"][...]
    assert level1.shape == (3, 550, 650)
    mean = image[:, :1300].transpose(2, 0, 1).reshape(3, 550, 2, 650, 2).mean(axis=(2, 4))
    assert np.abs(level1 - mean).max() <= 0.5
    assert group["2"].shape == (3, 275, 325)
    annotation = group["labels/annotation"]
    assert np.array_equal(annotation["1"][...], labels[:1100:2, :1300:2])  # every second id, never a mean of ids
    assert annotation["2"].shape == (275, 325)


@pytest.mark.parametrize("size", [(40, 50), (1025, 1025), (1030, 1501)])
def test_labels_have_as_many_levels_as_their_image(tmp_path, size):
    store = written(tmp_path / "store.zarr", {"S1": (("A",), slide(0, *size))})
    group = zarr.open_group(store.path / "slides" / "S1", mode="r")

    def shapes(path):
        datasets = group[path].attrs["ome"]["multiscales"][0]["datasets"] if path else levels
        return [group[f"{path}/{entry['path']}".lstrip("/")].shape[-2:] for entry in datasets]

    levels = group.attrs["ome"]["multiscales"][0]["datasets"]
    assert shapes("labels/annotation") == shapes("")
    assert len(shapes("labels/tissue")) == len(levels)
    assert min(shapes("labels/tissue")[-1]) >= 1


def test_ome_zarr_metadata_key_by_key(big):
    store, _ = big
    group = zarr.open_group(store.path / "slides" / "S1", mode="r")
    assert group.metadata.zarr_format == 3
    ome = group.attrs["ome"]
    assert set(ome) == {"version", "multiscales"}
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    assert multiscale["axes"] == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    assert multiscale["datasets"] == [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5 * 2**i, 0.5 * 2**i]}]}
        for i in range(3)
    ]
    assert group["labels"].attrs["ome"] == {"version": "0.5", "labels": ["annotation", "tissue"]}
    annotation = group["labels/annotation"].attrs["ome"]
    assert annotation["version"] == "0.5"
    assert annotation["multiscales"][0]["axes"] == multiscale["axes"][1:]
    assert annotation["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 1.0]
    assert annotation["image-label"] == {
        "version": "0.5",
        "source": {"image": "../../"},
        "colors": [
            {"label-value": 0, "rgba": [240, 240, 240, 255]},
            {"label-value": 1, "rgba": [10, 20, 30, 255]},
            {"label-value": 2, "rgba": [40, 50, 60, 255]},
        ],
    }
    tissue = group["labels/tissue"].attrs["ome"]
    assert tissue["image-label"] == {"version": "0.5", "source": {"image": "../../"}}
    assert tissue["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == [8.0, 8.0]


def test_without_a_resolution_there_is_no_unit(tmp_path):
    store = written(tmp_path / "store.zarr", {"S1": ((), slide(1))}, replace(INFO, mpp=None))
    multiscale = zarr.open_group(store.path / "slides" / "S1", mode="r").attrs["ome"]["multiscales"][0]
    assert multiscale["axes"][1] == {"name": "y", "type": "space"}
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 1.0, 1.0]
    assert store.info.mpp is None


def test_arrays_are_sharded(big):
    store, _ = big
    for name, chunks, shards, names in (
        ("0", (3, 256, 256), (3, 1536, 1536), ("c", "y", "x")),
        ("labels/annotation/0", (256, 256), (1536, 1536), ("y", "x")),
    ):
        array = zarr.open_array(store.path / "slides" / "S1" / name, mode="r")
        assert (array.dtype, array.chunks, array.shards) == (np.uint8, chunks, shards)
        assert array.metadata.dimension_names == names
        folder = store.path / "slides" / "S1" / name
        assert sum(path.is_file() for path in folder.rglob("*")) == 2  # zarr.json and one shard


def test_content_hash_does_not_depend_on_the_order_of_slides(tmp_path):
    slides = {"S1": (("A",), slide(1)), "S2": ((), slide(2)), "S3": (("A", "B"), slide(3))}
    one = written(tmp_path / "one.zarr", slides)
    other = written(tmp_path / "other.zarr", dict(reversed(slides.items())))
    assert one.content_hash == other.content_hash
    assert list(one.slides) == list(other.slides) == ["S1", "S2", "S3"]


@pytest.mark.parametrize("change", ["pixel", "label", "diagnosis", "slide id", "size", "mpp", "class", "allowed"])
def test_content_hash_moves_with_any_change(tmp_path, change):
    image, labels, tissue = slide(1)
    before = written(tmp_path / "before.zarr", {"S1": (("A",), (image, labels, tissue))}).content_hash
    diagnosis, slide_id, info, classes = ("A",), "S1", INFO, CLASSES
    image, labels = image.copy(), labels.copy()
    if change == "pixel":
        image[5, 6, 1] ^= 1
    elif change == "label":
        labels[5, 6] = 0 if labels[5, 6] else 1
    elif change == "diagnosis":
        diagnosis = ("B",)
    elif change == "slide id":
        slide_id = "S2"
    elif change == "size":  # the same bytes in another shape
        image, labels = image.reshape(50, 40, 3), labels.reshape(50, 40)
    elif change == "mpp":
        info = replace(INFO, mpp=0.25)
    elif change == "class":
        classes = replace(CLASSES, names=("glass", "a", "c"), diagnoses={"A": ("a",), "B": ("c",)})
    elif change == "allowed":
        classes = replace(CLASSES, diagnoses={"A": ("b",), "B": ("a",)})
    after = written(tmp_path / "after.zarr", {slide_id: (diagnosis, (image, labels, tissue))}, info, classes)
    assert after.content_hash != before


def test_what_stands_there_is_never_overwritten(small):
    with pytest.raises(DataError, match="immutable"):
        StoreWriter(small.path, INFO, CLASSES)


def test_a_store_that_was_never_sealed(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    writer.add("S1", "P1", (), *slide(1))
    assert not writer.path.exists()  # before the seal nothing stands at the final path
    (tmp_path / "store.zarr.partial").rename(writer.path)
    with pytest.raises(DataError, match="never sealed"):
        TileStore(writer.path)


def test_no_store(tmp_path):
    with pytest.raises(DataError, match="no such store"):
        TileStore(tmp_path / "store.zarr")


def test_an_edited_manifest_is_refused(small):
    path = small.path / "manifest.json"
    document = json.loads(path.read_text())
    document["content"]["slides"][0]["diagnosis"] = ["B"]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="edited by hand"):
        TileStore(small.path)


def test_another_format_version_is_refused(small):
    from tissuebench.datasets.documents import read_hashed_json, write_hashed_json

    path = small.path / "manifest.json"
    write_hashed_json(path, {**read_hashed_json(path)[0], "format": 99})
    with pytest.raises(DataError, match="format 99"):
        TileStore(small.path)


@pytest.mark.parametrize(
    ("name", "said"), [("0", "image"), ("labels/annotation/0", "label"), ("labels/tissue/0", "tissue")]
)
def test_verify_finds_a_changed_pixel(small, name, said):
    verify(small)
    array = zarr.open_array(small.path / "slides" / "S2" / name, mode="r+")
    y, x = (min(3, array.shape[-2] - 1), min(2, array.shape[-1] - 1))
    array[..., y, x] = array[..., y, x] ^ 1
    with pytest.raises(DataError, match=rf"slide S2 has changed.*\({said}\)"):
        verify(TileStore(small.path))


@pytest.mark.parametrize("name", ["tiles/tissue.npy", "tiles/class_pixels.npy"])
def test_verify_finds_a_changed_table(small, name):
    path = small.path / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DataError, match=r"slide S2 has changed.*\(tiles\)"):
        verify(small)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        verify(TileStore(small.path))


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_codecs_give_the_same_pixels_and_the_same_content_hash(tmp_path, codec, two):
    store = written(tmp_path / "store.zarr", {"S1": (("A",), slide(1)), "S2": ((), slide(2))}, codec=codec)
    assert store.content_hash == two.content_hash
    verify(store)
    names = [entry["name"] for entry in _codecs(store.path / "slides" / "S1" / "0")]
    assert names == {"lz4": ["bytes", "blosc"], "zstd": ["bytes", "zstd"], "none": ["bytes"]}[codec]


def _codecs(array):
    return json.loads((array / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]


def test_zarr_reads_the_same_pixels(big):
    store, (image, labels, tissue) = big
    group = zarr.open_group(store.path / "slides" / "S1", mode="r")
    assert np.array_equal(group["0"][...], image.transpose(2, 0, 1))
    assert np.array_equal(group["labels/annotation/0"][...], labels)
    assert np.array_equal(group["labels/tissue/0"][...], tissue)


def test_an_independent_reader_opens_image_and_labels(big):
    """ome-zarr-py, which knows nothing of this suite."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    store, (image, labels, tissue) = big
    found, *rasters = list(Reader(parse_url(store.path / "slides" / "S1", mode="r"))())
    assert [level.shape for level in found.data] == [(3, 1100, 1301), (3, 550, 650), (3, 275, 325)]
    assert np.array_equal(found.data[0].compute(), image.transpose(2, 0, 1))
    named = {node.zarr.path.rstrip("/").rsplit("/", 1)[-1]: node.data for node in rasters}
    assert np.array_equal(named["annotation"][0].compute(), labels)
    assert np.array_equal(named["tissue"][0].compute(), tissue)
    assert {name: len(levels) for name, levels in named.items() if levels} == {"annotation": 3, "tissue": 3}


def test_what_is_blank_takes_no_room(tmp_path):
    image, labels = np.full((1200, 1200, 3), 255, np.uint8), np.full((1200, 1200), 255, np.uint8)
    image[:40, :40] = 100
    store = written(tmp_path / "store.zarr", {"S1": ((), (image, labels, np.ones((75, 75), np.uint8)))})
    annotation = store.path / "slides" / "S1" / "labels" / "annotation" / "0"
    assert [path.name for path in annotation.rglob("*") if path.is_file()] == ["zarr.json"]
    assert (store.withheld.mask("S1", 0, 0, 1200, 1200) == 255).all()
    assert np.array_equal(store.image("S1", 0, 0, 1200, 1200), image.transpose(2, 0, 1))


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


@pytest.mark.parametrize("slide_id", ["a/b", "../x", "..", ".", "", "a b", "-x", "a\n", "a\\b"])
def test_a_slide_id_that_is_no_file_name(tmp_path, slide_id):
    writer = StoreWriter(tmp_path / "deep" / "store.zarr", INFO, CLASSES)
    with pytest.raises(DataError, match="cannot be a file name"):
        writer.add(slide_id, "P1", (), *slide(1))
    assert not [path for path in tmp_path.rglob("*") if path.name in ("x", "b", "a")]


def test_a_slide_id_that_appears_twice(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    writer.add("S1", "P1", (), *slide(1))
    with pytest.raises(DataError, match="'S1' appears twice"):
        writer.add("S1", "P2", (), *slide(2))


def test_discard_leaves_nothing(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    writer.add("S1", "P1", (), *slide(1))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_new_writer_goes_on_where_an_interrupted_one_was(tmp_path):
    StoreWriter(tmp_path / "store.zarr", INFO, CLASSES).add("S1", "P1", (), *slide(1))
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    assert list(writer.finished()) == ["S1"]
    writer.add("S2", "P2", (), *slide(2))
    store = writer.seal({"S1": Case("P1"), "S2": Case("P2")})
    at_once = StoreWriter(tmp_path / "other.zarr", INFO, CLASSES)
    at_once.add("S1", "P1", (), *slide(1))
    at_once.add("S2", "P2", (), *slide(2))
    assert store.content_hash == at_once.seal().content_hash
    assert not (tmp_path / "store.zarr.partial").exists()


def test_slides_that_do_not_belong_are_not_sealed_in(tmp_path):
    StoreWriter(tmp_path / "store.zarr", INFO, CLASSES).add("S1", "P1", (), *slide(1))
    store = written(tmp_path / "store.zarr", {"S2": ((), slide(2))})
    assert [path.name for path in (store.path / "slides").iterdir() if path.is_dir()] == ["S2"]
    assert not list(store.path.rglob("S1*"))


@pytest.mark.parametrize("changed", ["codec", "settings", "tile_px"])
def test_other_settings_begin_anew(tmp_path, changed):
    StoreWriter(tmp_path / "store.zarr", INFO, CLASSES).add("S1", "P1", (), *slide(1))
    info = replace(INFO, tile_px=64) if changed == "tile_px" else INFO
    codec, settings = ("zstd" if changed == "codec" else "lz4"), ("new" if changed == "settings" else None)
    assert StoreWriter(tmp_path / "store.zarr", info, CLASSES, codec, settings).finished() == {}


def test_a_sealed_store_is_opened_again_on_demand(small):
    before = small.content_hash
    writer = StoreWriter(small.path, INFO, CLASSES, update=True)
    assert not small.path.exists()
    writer.add("S3", "P3", (), *slide(3))
    assert list(writer.seal({name: Case(f"P{name}") for name in ("S1", "S2", "S3")}).slides) == ["S1", "S2", "S3"]
    writer = StoreWriter(small.path, INFO, CLASSES, update=True)
    assert writer.seal({"S1": Case("PS1", ("A",)), "S2": Case("PS2")}).content_hash == before


def test_no_tissue_is_an_error(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    image, labels, tissue = slide(1)
    with pytest.raises(DataError, match="'S1': no tissue found"):
        writer.add("S1", "P1", (), image, labels, np.zeros_like(tissue))
    assert writer.finished() == {}
    assert not list((writer.folder / "slides").glob("*S1*"))


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
