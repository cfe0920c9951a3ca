"""Simplified outlines: near the borders of pixels, valid, and hardly over each other."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from shapely import hausdorff_distance, intersection
from shapely.geometry import MultiPolygon, box, shape

from tests.benchmark.prediction.rasters import CLASSES, Raster, rasters
from tests.properties import examples
from tissuebench.errors import ConfigError
from tissuebench.prediction.geojson import EXACT, OutlineSettings, write_geojson
from tissuebench.prediction.outlines import areas_of
from tissuebench.prediction.simplify import check_tolerance, simplified, without_small_holes


def blobs(size, seed=0, sigma=6):
    """Labels with smooth borders, as a network draws them."""
    noise = np.random.default_rng(seed).standard_normal((3, size, size))
    return np.argmax([ndimage.gaussian_filter(one, sigma) for one in noise], axis=0).astype(np.uint8)


@examples(60)
@given(raster=rasters(), tolerance=st.sampled_from([1.0, 2.5]))
def test_outlines_are_valid_near_and_hardly_overlap(raster, tolerance):
    areas = [area.geometry for area in areas_of(Raster(raster), CLASSES)]
    simple = [simplified(area, tolerance) for area in areas]
    for before, after in zip(areas, simple, strict=True):
        assert after.is_valid
        assert hausdorff_distance(after.boundary, before.boundary, densify=0.05) <= tolerance + 1e-9
    for number, one in enumerate(simple):
        for other in simple[number + 1 :]:
            shared = intersection(one, other)
            # Each runs within half of the tolerance of a line that both share.
            assert shared.area == 0 or shared.buffer(-tolerance / 2 - 1e-6).is_empty


def test_a_staircase_becomes_a_line_and_corners_of_pixels_go():
    raster = np.tril(np.ones((40, 40), np.uint8))
    (area,) = [area.geometry for area in areas_of(Raster(raster), CLASSES) if area.class_id == 1]
    assert len(area.geoms[0].exterior.coords) > 80
    assert len(simplified(area, 1.0).geoms[0].exterior.coords) < 9
    assert simplified(area, 0) is area


@pytest.mark.parametrize("tolerance", [0.5, 0.99, float("inf"), float("nan")])
def test_a_tolerance_below_a_pixel_is_refused(tolerance):
    with pytest.raises(ConfigError, match="write 0 for the borders of pixels, or a distance of 1 or more"):
        check_tolerance(tolerance)


def test_small_holes_are_filled_and_others_stay():
    ring = box(0, 0, 20, 20).difference(box(2, 2, 4, 4)).difference(box(8, 8, 14, 14))
    area = MultiPolygon([ring])
    assert without_small_holes(area, 5).area == 400 - 36
    assert without_small_holes(area, 4) is area
    assert without_small_holes(area, 40).area == 400


def test_small_areas_are_left_out_and_what_surrounds_them_is_whole(tmp_path):
    """A speck inside goes to what surrounds it, one between two areas to nobody."""
    raster = np.zeros((20, 20), np.uint8)
    raster[:, 10:] = 1
    raster[4:6, 4:6] = 2
    raster[12:14, 9:11] = 2
    path = tmp_path / "labels.geojson"
    assert write_geojson(path, Raster(raster), CLASSES, 2.0, "trial", {}, OutlineSettings(min_area_px=5)) == 2
    areas = [shape(one["geometry"]) for one in json.loads(path.read_text())["features"]]
    assert sorted(area.area for area in areas) == [4 * 198, 4 * 198]
    assert write_geojson(path, Raster(raster), CLASSES, 2.0, "trial", {}, EXACT) == 4


def test_the_file_is_a_third_and_the_same_again(tmp_path):
    """Of smooth areas; what remains is mostly the frame of each feature."""
    raster = blobs(600, sigma=12)
    sizes = {}
    for name, settings in (
        ("exact", EXACT),
        ("simple", OutlineSettings(simplify_px=1.0)),
        ("coarse", OutlineSettings(simplify_px=4.0, min_area_px=100)),
    ):
        path = tmp_path / f"{name}.geojson"
        write_geojson(path, Raster(raster), CLASSES, 4.008, "trial", {}, settings)
        sizes[name] = path.stat().st_size
        before = path.read_bytes()
        write_geojson(path, Raster(raster), CLASSES, 4.008, "trial", {}, settings)
        assert path.read_bytes() == before
    assert sizes["simple"] < sizes["exact"] / 3
    assert sizes["coarse"] < sizes["exact"] / 7


def test_compressed_it_holds_the_same(tmp_path):
    raster = blobs(100)
    plain, packed = tmp_path / "labels.geojson", tmp_path / "labels.geojson.gz"
    for path in (plain, packed):
        write_geojson(path, Raster(raster), CLASSES, 1.0, "trial", {})
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    before = packed.read_bytes()
    write_geojson(packed, Raster(raster), CLASSES, 1.0, "trial", {})
    assert packed.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["labels.geojson", "labels.geojson.gz"]


def test_outlines_are_moved_to_the_origin(tmp_path):
    raster = np.full((6, 6), 255, np.uint8)
    raster[1:4, 2:5] = 1
    path = tmp_path / "labels.geojson"
    write_geojson(path, Raster(raster), CLASSES, 2.0, "trial", {"frame": "bounds"}, OutlineSettings(origin=(1, 3)))
    document = json.loads(path.read_text())
    assert document["tissuebench"] == {"scale": 2.0, "frame": "bounds"}
    assert shape(document["features"][0]["geometry"]).equals(box(4 - 3, 2 - 1, 10 - 3, 8 - 1))
