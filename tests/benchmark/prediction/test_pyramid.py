"""A predicted slide as OME-Zarr, read by others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from tests.benchmark.prediction.rasters import Raster
from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.types import ClassMap
from tissuebench.prediction.pyramid import write_label_pyramid

CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (200, 100, 150), (90, 20, 120)))
MPP, PICTURE_SCALE = 0.5, 2100 / 525


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A slide of 2100 x 5003 px with a picture of a quarter of that."""
    rng = np.random.default_rng(1)
    small = rng.choice(np.array([0, 1, 2, 255], np.uint8), size=(21, 51))
    labels = small.repeat(100, axis=0).repeat(100, axis=1)[:2100, :5003]
    picture = rng.integers(0, 255, (525, 1251, 3), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("made") / "labels.ome.zarr"
    raster = Raster(labels)
    write_label_pyramid(folder, raster, CLASSES, MPP, picture, PICTURE_SCALE)
    assert raster.largest <= 4096
    return folder, labels, picture


def test_every_level_and_value_is_there(made):
    folder, labels, picture = made
    target = folder / "labels" / "prediction"
    for level in range(4):
        halved = labels[: 2100 >> level << level : 1 << level, : 5003 >> level << level : 1 << level]
        assert np.array_equal(zarr.open_array(target / str(level), mode="r")[...], halved), level
    assert np.array_equal(zarr.open_array(folder / "0", mode="r")[...], picture.transpose(2, 0, 1))


def test_it_is_valid_by_the_models_of_others(made):
    folder, _, _ = made
    image = Image.from_zarr(zarr.open_group(folder, mode="r"))
    label = ImageLabel.from_zarr(zarr.open_group(folder / "labels" / "prediction", mode="r"))
    names = Labels.from_zarr(zarr.open_group(folder / "labels", mode="r")).attributes.ome.labels
    assert names == ["prediction"]
    (of_image,), (of_label,) = image.attributes.ome.multiscales, label.attributes.ome.multiscales
    assert len(of_image.datasets) == len(of_label.datasets) == 4  # the same number is asked for
    assert of_label.datasets[0].coordinateTransformations[0].scale == [0.5, 0.5]
    assert of_image.datasets[0].coordinateTransformations[0].scale == [1.0, 2.0, 2.0]


def test_viewers_get_names_and_colours(made):
    folder, labels, _ = made
    nodes = {node.zarr.basename(): node for node in Reader(parse_url(folder))()}
    prediction = nodes["prediction"]
    assert np.array_equal(prediction.data[0].compute(), labels)
    colors = prediction.metadata["color"]
    assert {value: colors[value] for value in (0, 2, 255)} == {
        0: [240 / 255, 240 / 255, 240 / 255, 1.0],
        2: [90 / 255, 20 / 255, 120 / 255, 1.0],
        255: [0, 0, 0, 0],
    }
    assert prediction.metadata["properties"] == {
        0: {"class": "glass"},
        1: {"class": "stroma"},
        2: {"class": "tumour"},
        255: {"class": "not predicted"},
    }


def test_our_own_reader_opens_the_picture(made):
    folder, _, picture = made
    with open_slide(folder, None) as slide:
        assert slide.mpp == pytest.approx(MPP * PICTURE_SCALE)
        assert np.array_equal(slide.region(0, 0, 525, 1251), picture)


def test_without_a_resolution_nothing_claims_one(tmp_path):
    labels = np.zeros((40, 30), np.uint8)
    write_label_pyramid(tmp_path / "a.ome.zarr", Raster(labels), CLASSES, None, np.zeros((40, 30, 3), np.uint8), 1.0)
    for folder in (tmp_path / "a.ome.zarr", tmp_path / "a.ome.zarr" / "labels" / "prediction"):
        (multiscale,) = json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
        assert not any("unit" in axis for axis in multiscale["axes"])
    ImageLabel.from_zarr(zarr.open_group(tmp_path / "a.ome.zarr" / "labels" / "prediction", mode="r"))
