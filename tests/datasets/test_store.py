from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuebench.datasets.store import StoreInfo, TileStore
from tissuebench.datasets.store_writer import StoreWriter
from tissuebench.datasets.types import ClassMap, LabelCosts
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


def written(path, slides, info=INFO, classes=CLASSES) -> TileStore:
    writer = StoreWriter(path, info, classes)
    for slide_id, (diagnosis, arrays) in slides.items():
        writer.add(slide_id, f"P{slide_id}", diagnosis, *arrays)
    return writer.seal()


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    arrays = slide(0, HEIGHT, WIDTH)
    return written(tmp_path_factory.mktemp("store") / "store.zarr", {"S1": (("A",), arrays)}), arrays


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


def test_a_region_cannot_be_written_into(small):
    before = small.image("S1", 0, 0, 8, 8).copy()
    with pytest.raises(ValueError, match="read-only"):
        small.image("S1", 0, 0, 8, 8)[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        small.tissue("S1")[:] = 0
    assert np.array_equal(small.image("S1", 0, 0, 8, 8), before)


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
    from tissuebench.datasets.files import read_hashed_json, write_hashed_json

    path = small.path / "manifest.json"
    write_hashed_json(path, {**read_hashed_json(path)[0], "format": 99})
    with pytest.raises(DataError, match="format 99"):
        TileStore(small.path)


@pytest.mark.parametrize("name", ["0", "labels/annotation/0"])
def test_verify_finds_a_changed_pixel(small, name):
    small.verify()
    array = zarr.open_array(small.path / "slides" / "S2" / name, mode="r+")
    array[..., 3, 4] = array[..., 3, 4] ^ 1
    with pytest.raises(DataError, match=f"slide S2 has changed.*{name}"):
        small.verify()


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


def test_a_new_writer_forgets_what_an_interrupted_one_left(tmp_path):
    StoreWriter(tmp_path / "store.zarr", INFO, CLASSES).add("S1", "P1", (), *slide(1))
    store = written(tmp_path / "store.zarr", {"S2": ((), slide(2))})
    assert [path.name for path in (store.path / "slides").iterdir() if path.is_dir()] == ["S2"]
    assert not (tmp_path / "store.zarr.partial").exists()


def test_a_pickled_store_reads(small):
    small.image("S1", 0, 0, 4, 4)
    payload = pickle.dumps(small)
    assert len(payload) < 5000  # no decoded slide travels
    copy = pickle.loads(payload)
    assert np.array_equal(copy.image("S2", 0, 0, 40, 50), small.image("S2", 0, 0, 40, 50))
    assert np.array_equal(copy.withheld.mask("S1", 1, 2, 5, 6), small.withheld.mask("S1", 1, 2, 5, 6))


def test_a_small_cache_gives_the_same_pixels(small):
    tight = TileStore(small.path, cache_bytes=1)
    for _ in range(2):
        for slide_id in ("S1", "S2"):
            assert np.array_equal(tight.image(slide_id, 3, 4, 20, 20), small.image(slide_id, 3, 4, 20, 20))
            assert np.array_equal(tight.withheld.mask(slide_id, 0, 0, 9, 9), small.withheld.mask(slide_id, 0, 0, 9, 9))
            assert len(tight._cache) == 1
    assert len(small._cache) == 4


def test_the_cache_forgets_the_least_recently_used(small):
    image_bytes = 3 * 40 * 50
    store = TileStore(small.path, cache_bytes=image_bytes + 40 * 50)
    store.image("S1", 0, 0, 1, 1)
    store.withheld.mask("S1", 0, 0, 1, 1)
    store.image("S1", 0, 0, 1, 1)
    store.withheld.mask("S2", 0, 0, 1, 1)
    assert list(store._cache) == [("S1", "0"), ("S2", "labels/annotation/0")]


def test_an_unknown_slide_is_named(small):
    with pytest.raises(DataError, match="no slide 'S9'"):
        small.image("S9", 0, 0, 1, 1)
