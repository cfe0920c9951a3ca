"""From labels to GeoJSON and back, pixel for pixel."""

from __future__ import annotations

import json
import math
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.features import rasterize
from scipy import ndimage
from shapely.geometry import box, shape

from tests.benchmark.prediction.rasters import CLASSES, Raster, rasters
from tests.properties import examples
from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.errors import DataError
from tissuebench.prediction.geojson import write_geojson
from tissuebench.prediction.outlines import areas_of

NEVER_CUT = 10**9


def written(folder, raster, scale, block_px, max_corners=NEVER_CUT):
    path = folder / "labels.geojson"
    count = write_geojson(
        path, Raster(raster), CLASSES, scale, "trial", {"trial": "abc"}, block_px=block_px, max_corners=max_corners
    )
    document = json.loads(path.read_text())
    assert len(document["features"]) == count
    assert document["tissuebench"] == {"scale": scale, "trial": "abc"}
    return path, document["features"]


def rasterised(features, shape_px, scale):
    pairs = [(one["geometry"], CLASSES.names.index(one["properties"]["classification"]["name"])) for one in features]
    if not pairs:
        return np.full(shape_px, 255, np.uint8)
    return rasterize(pairs, out_shape=shape_px, fill=255, transform=Affine.scale(scale), dtype=np.uint8)


@given(
    raster=rasters(),
    block_px=st.integers(1, 45),
    scale=st.sampled_from([1.0, 2.0, 1.0020040080160322, 3.7, 0.3]),
    max_corners=st.sampled_from([0, 60, NEVER_CUT]),
)
def test_labels_come_back_pixel_for_pixel(tmp_path_factory, raster, block_px, scale, max_corners):
    path, features = written(tmp_path_factory.mktemp("made"), raster, scale, block_px, max_corners)
    geometries = [shape(one["geometry"]) for one in features]
    assert all(geometry.is_valid for geometry in geometries)
    assert sum(geometry.area for geometry in geometries) == pytest.approx((raster != 255).sum() * scale**2, rel=1e-3)
    assert np.array_equal(rasterised(features, raster.shape, scale), raster)
    assert len({one["id"] for one in features}) == len(features)
    if features:
        level0 = math.ceil(raster.shape[0] * scale), math.ceil(raster.shape[1] * scale)
        source = open_annotation(path, CLASSES, Frame(level0, raster.shape, scale))
        assert source.notes == ()
        assert np.array_equal(source.raster(0, 0, *raster.shape), raster)


@examples(50)
@given(raster=rasters(), block_px=st.integers(1, 45))
def test_an_area_is_one_feature_wherever_borders_of_blocks_lie(raster, block_px):
    areas = list(areas_of(Raster(raster), CLASSES, block_px, NEVER_CUT))
    connected = sum(ndimage.label(raster == class_id)[1] for class_id in range(3))
    assert len(areas) == connected
    for area in areas:
        drawn = rasterize([area.geometry], out_shape=raster.shape, dtype=np.uint8)
        assert ndimage.label(drawn)[1] == 1
        assert (raster[drawn == 1] == area.class_id).all()


def test_golden_a_ring_over_four_blocks():
    raster = np.full((8, 9), 255, np.uint8)
    raster[1:7, 1:7] = 2
    raster[3:5, 3:5] = 0
    areas = sorted(areas_of(Raster(raster), CLASSES, 4, NEVER_CUT), key=lambda area: area.class_id)
    assert [area.class_id for area in areas] == [0, 2]
    assert areas[0].geometry.equals(box(3, 3, 5, 5))
    assert areas[1].geometry.equals(box(1, 1, 7, 7).difference(box(3, 3, 5, 5)))


def test_corners_far_from_the_origin_are_not_rounded():
    """Noise at the end of the widest slide, cut by borders of blocks."""
    width = 131_000
    raster = np.full((3, width), 255, np.uint8)
    raster[:, -5000:] = np.random.default_rng(3).integers(0, 3, (3, 5000), dtype=np.uint8)
    areas = list(areas_of(Raster(raster), CLASSES, 4096, NEVER_CUT))
    assert len(areas) == sum(ndimage.label(raster == class_id)[1] for class_id in range(3))
    pairs = [(area.geometry, area.class_id) for area in areas]
    assert np.array_equal(rasterize(pairs, out_shape=raster.shape, fill=255, dtype=np.uint8), raster)


def test_what_waits_is_bounded_and_blocks_are_all_that_is_read():
    """A comb along every border: all of it is one area, and none of it may wait for the end."""
    raster = np.zeros((64, 64), np.uint8)
    raster[1::2, 1:-1] = 1
    labels = Raster(raster)
    areas = list(areas_of(labels, CLASSES, 8, max_corners=100))
    assert labels.largest == 8
    assert len(areas) > ndimage.label(raster == 0)[1] + ndimage.label(raster == 1)[1]
    assert max(len(part.exterior.coords) for area in areas for part in area.geometry.geoms) < 300
    pairs = [(area.geometry, area.class_id) for area in areas]
    assert np.array_equal(rasterize(pairs, out_shape=raster.shape, fill=255, dtype=np.uint8), raster)


def test_the_file_is_what_qupath_reads(tmp_path):
    raster = np.full((6, 6), 255, np.uint8)
    raster[1:4, 2:5] = 1
    path, (feature,) = written(tmp_path, raster, 2.0, 4)
    assert json.loads(path.read_text())["type"] == "FeatureCollection"
    assert list(feature) == ["type", "id", "geometry", "properties"]
    assert feature["geometry"]["type"] == "Polygon"
    assert shape(feature["geometry"]).equals(box(4, 2, 10, 8))
    assert feature["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "stroma", "color": [200, 100, 150]},
    }
    assert uuid.UUID(feature["id"]).version == 5
    before = path.read_bytes()
    written(tmp_path, raster, 2.0, 4)
    assert path.read_bytes() == before


def test_nothing_half_written_is_left(tmp_path):
    path = tmp_path / "labels.geojson"
    path.write_text("before")
    raster = np.array([[0, 0, 0, 0], [0, 0, 0, 3]], np.uint8)
    with pytest.raises(DataError, match="label value 3 is outside the class map"):
        write_geojson(path, Raster(raster), CLASSES, 1.0, "trial", {}, block_px=2)
    assert [item.name for item in tmp_path.iterdir()] == ["labels.geojson"]
    assert path.read_text() == "before"
