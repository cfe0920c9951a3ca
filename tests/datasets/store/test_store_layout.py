"""The layout of a store on disk: OME-Zarr levels, metadata, shards and codecs, read by independent readers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests.datasets.store.toy_stores import INFO, slide, written
from tissuebench.datasets.store.verify import verify


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
