"""From labels to polygons and back, and the GeoJSON that is written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, box

from tissuebench.datasets.annotations import Frame, Region, open_annotation, polygons_of_raster, write_geojson
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (200, 100, 150), (90, 20, 120)))


@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    coarse=st.integers(1, 4),
    scale=st.sampled_from([1.0, 2.0, 3.0, 7.0, 2.0008, 0.3]),
)
def test_labels_come_back_from_polygons_and_a_file(tmp_path_factory, seed, height, width, coarse, scale):
    rng = np.random.default_rng(seed)
    small = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), size=(-(-height // coarse), -(-width // coarse)))
    raster = small.repeat(coarse, axis=0).repeat(coarse, axis=1)[:height, :width]
    regions = polygons_of_raster(raster, CLASSES, scale)
    path = tmp_path_factory.mktemp("outlines") / "slide.geojson"
    write_geojson(path, regions, CLASSES)
    frame = Frame((math.ceil(height * scale), math.ceil(width * scale)), (height, width), scale)
    if (raster == 255).all():
        assert regions == []
        with pytest.raises(DataError, match="no annotation with an area"):
            open_annotation(path, CLASSES, frame)
        return
    source = open_annotation(path, CLASSES, frame)
    assert np.array_equal(source.raster(0, 0, height, width), raster)
    assert source.notes == ()


def test_areas_are_outlined_class_by_class_with_their_holes():
    raster = np.full((8, 9), 255, dtype=np.uint8)
    raster[1:7, 1:7] = 2
    raster[3:5, 3:5] = 0
    raster[7, 7] = 2  # touches the other area at a corner
    regions = polygons_of_raster(raster, CLASSES, 4.0)
    assert [region.class_id for region in regions] == [0, 2, 2]
    assert regions[0].geometry.equals(box(12, 12, 20, 20))
    areas = sorted((region.geometry for region in regions[1:]), key=lambda geometry: geometry.area)
    assert areas[0].equals(box(28, 28, 32, 32))
    assert areas[1].equals(box(4, 4, 28, 28).difference(box(12, 12, 20, 20)))
    assert all(region.geometry.is_valid for region in regions)


def test_a_value_outside_the_class_map_has_no_name():
    with pytest.raises(DataError, match=r"label value 3 is outside the class map \(0 to 2\)"):
        polygons_of_raster(np.array([[0, 3]], dtype=np.uint8), CLASSES, 1.0)


def test_the_file_is_what_qupath_expects(tmp_path):
    path = tmp_path / "made" / "slide.geojson"
    two = MultiPolygon([box(0, 0, 2, 2), box(4, 4, 6, 6)])
    regions = [Region(1, MultiPolygon([box(0, 0, 9, 9)]), "a"), Region(2, two, "b")]
    write_geojson(path, regions, CLASSES)
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    first, second = document["features"]
    assert first["type"] == "Feature"
    assert first["geometry"]["type"] == "Polygon"
    assert first["geometry"]["coordinates"][0][0] == first["geometry"]["coordinates"][0][-1]
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "stroma", "color": [200, 100, 150]},
    }
    assert second["geometry"]["type"] == "MultiPolygon"
    assert [item.name for item in path.parent.iterdir()] == ["slide.geojson"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "slide.geojson"
    write_geojson(path, [Region(1, MultiPolygon([box(0, 0, 9, 9)]), "a")], CLASSES)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_geojson(path, [Region(1, MultiPolygon([box(0, 0, float("inf"), 9)]), "a")], CLASSES)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["slide.geojson"]
