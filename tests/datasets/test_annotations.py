from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tissuebench.datasets.annotations import read_geojson, read_label_image
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (200, 100, 150), (90, 20, 120)))


def ring(y0, x0, y1, x1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(coordinates, name="tumour", kind="Polygon"):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
    }


@pytest.fixture
def rasterised(tmp_path):
    def write_and_read(document, size=(20, 30), scale=1.0):
        path = tmp_path / "slide.geojson"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return read_geojson(path, CLASSES, size, scale)

    return write_and_read


def expected(size, *boxes):
    raster = np.full(size, 255, dtype=np.uint8)
    for (y0, x0, y1, x1), value in boxes:
        raster[y0:y1, x0:x1] = value
    return raster


def test_a_polygon_with_a_hole_leaves_the_hole_unlabelled(rasterised):
    raster = rasterised([feature([ring(2, 3, 18, 25), ring(5, 6, 10, 12)])])
    assert raster.dtype == np.uint8
    assert np.array_equal(raster, expected((20, 30), ((2, 3, 18, 25), 2), ((5, 6, 10, 12), 255)))


def test_what_is_drawn_later_lies_over_what_was_drawn_before(rasterised):
    big, small = feature([ring(0, 0, 20, 30)], "stroma"), feature([ring(5, 5, 10, 10)], "tumour")
    collection = {"type": "FeatureCollection", "features": [big, small]}
    assert np.array_equal(rasterised(collection), expected((20, 30), ((0, 0, 20, 30), 1), ((5, 5, 10, 10), 2)))
    assert np.array_equal(rasterised([small, big]), expected((20, 30), ((0, 0, 20, 30), 1)))


def test_a_hole_shows_what_was_drawn_before(rasterised):
    raster = rasterised([feature([ring(0, 0, 20, 30)], "glass"), feature([ring(2, 2, 18, 28), ring(5, 5, 9, 9)])])
    assert np.array_equal(raster, expected((20, 30), ((0, 0, 20, 30), 0), ((2, 2, 18, 28), 2), ((5, 5, 9, 9), 0)))


def test_multipolygon_and_a_single_feature(rasterised):
    raster = rasterised(feature([[ring(0, 0, 4, 4)], [ring(10, 10, 14, 20)]], kind="MultiPolygon"))
    assert np.array_equal(raster, expected((20, 30), ((0, 0, 4, 4), 2), ((10, 10, 14, 20), 2)))


def test_a_geometry_collection(rasterised):
    collected = feature([])
    collected["geometry"] = {
        "type": "GeometryCollection",
        "geometries": [
            {"type": "LineString", "coordinates": [[0, 15.5], [29, 15.5]]},
            {"type": "MultiPolygon", "coordinates": [[ring(0, 0, 4, 4)], [ring(6, 6, 8, 8)]]},
        ],
    }
    assert np.array_equal(rasterised([collected]), expected((20, 30), ((0, 0, 4, 4), 2), ((6, 6, 8, 8), 2)))


def test_scale_is_level0_pixels_per_raster_pixel(rasterised):
    drawn = [feature([ring(8, 13, 40, 80)])]
    assert np.array_equal(rasterised(drawn, scale=4.0), expected((20, 30), ((2, 3, 10, 20), 2)))
    assert np.array_equal(rasterised(drawn, (10, 15), 8.0), expected((10, 15), ((1, 2, 5, 10), 2)))


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(rasterised):
    assert np.array_equal(rasterised([feature([ring(1.6, 2.4, 4.4, 6.6)])]), expected((20, 30), ((2, 2, 4, 7), 2)))


def test_what_reaches_beyond_the_slide_is_cut(rasterised):
    assert np.array_equal(rasterised([feature([ring(-5, -5, 4, 99)])]), expected((20, 30), ((0, 0, 4, 30), 2)))


def test_a_polygon_that_crosses_itself_is_repaired(rasterised):
    bowtie = feature([[[0, 0], [20, 20], [20, 0], [0, 20], [0, 0]]])
    y, x = np.mgrid[0:20, 0:30] + 0.5
    inside = (x < 20) & (np.abs(y - 10) < np.abs(x - 10))
    edge = (np.abs(np.abs(y - 10) - np.abs(x - 10)) < 0.1) | (x > 20)
    raster = rasterised([bowtie])
    assert np.array_equal((raster == 2)[~edge], inside[~edge])
    assert inside[~edge].any()


def test_a_spike_of_a_polygon_labels_nothing(rasterised):
    """A repair turns the spike into a line, which has no area."""
    spiked = feature([[[0, 0], [4, 0], [4, 4], [15, 4], [4, 4], [0, 4], [0, 0]]])
    assert np.array_equal(rasterised([spiked]), expected((20, 30), ((0, 0, 4, 4), 2)))


def test_points_and_lines_are_left_out(rasterised):
    point = feature([5.5, 5.5], kind="Point")
    line = feature([[0.5, 7.5], [20.5, 7.5]], kind="LineString")
    assert np.array_equal(rasterised([point, feature([ring(0, 0, 2, 2)]), line]), expected((20, 30), ((0, 0, 2, 2), 2)))
    with pytest.raises(DataError, match="no annotation with an area"):
        rasterised([point, line])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([feature([ring(0, 0, 2, 2)], "tumor")], r"feature 0: unknown class 'tumor': did you mean 'tumour'\?"),
        ([feature([ring(0, 0, 2, 2)]), feature([ring(0, 0, 2, 2)], "")], "feature 1 has no class"),
        ([{**feature([ring(0, 0, 2, 2)]), "properties": {}}], "feature 0 has no class"),
        ([{**feature([ring(0, 0, 2, 2)]), "properties": None}], "feature 0 has no class"),
        ([feature([ring(0, 0, 2, 2)], 7)], "feature 0: unknown class '7'"),
        ("{broken", "cannot be read as GeoJSON"),
        ("\ufeff\x00", "cannot be read as GeoJSON"),
        ("", "cannot be read as GeoJSON"),
        ([], "no annotation"),
        ({"type": "FeatureCollection", "features": None}, "no annotation"),
        (7, "no annotation"),
        ([5], "feature 0 is not a GeoJSON feature"),
        ([{"geometry": None, "properties": {"classification": {"name": "tumour"}}}], "feature 0 is not"),
        ([feature([[[0, 0], [1, 1]]])], "feature 0 is not"),
        ([feature([], kind="Pentagon")], "feature 0 is not"),
    ],
)
def test_broken_annotations_are_one_line_that_names_the_file(rasterised, document, message):
    with pytest.raises(DataError, match=message) as caught:
        rasterised(document)
    assert "slide.geojson" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_annotation_names_the_column(tmp_path):
    with pytest.raises(DataError, match=r"none\.geojson.*column 'annotation'"):
        read_geojson(tmp_path / "none.geojson", CLASSES, (4, 4), 1.0)
    with pytest.raises(DataError, match=r"none\.png.*column 'annotation'"):
        read_label_image(tmp_path / "none.png", CLASSES, (4, 4), (4, 4))


@pytest.mark.parametrize("name", ["CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"])
def test_real_annotations_give_the_mask_that_came_with_them(shared_data, name):
    """All pixels agree but a boundary of 1 px, and that boundary is thin."""
    folder = shared_data / "wsi_small" / "annotations"
    truth = np.asarray(Image.open(folder / f"{name}.mask_ds4.png"))
    classes = ClassMap(("Tissue", "Hematoxylin-rich"), ((1, 1, 1), (2, 2, 2)))
    raster = read_geojson(folder / f"{name}.geojson", classes, truth.shape, 4.0)
    found = np.where(raster == 255, 0, raster + 1)
    assert set(np.unique(found)) == {0, 1, 2}
    cross = ndimage.generate_binary_structure(2, 2)
    low, high = (filtered(truth, footprint=cross) for filtered in (ndimage.minimum_filter, ndimage.maximum_filter))
    boundary = low != high
    wrong = found != truth
    assert (wrong & ~boundary).mean() < 1e-4
    assert wrong.mean() < 0.03
    shifted = np.roll(found, 3, axis=1) != truth
    assert shifted.mean() > 2 * wrong.mean()


def save_palette(path, ids, palette):
    image = Image.fromarray(ids, mode="P")
    image.putpalette(bytes(np.array(palette, dtype=np.uint8).ravel()))
    image.save(path)


IDS = np.array([[0, 1, 2, 255], [2, 2, 1, 0], [1, 0, 255, 2]], dtype=np.uint8)


def test_a_palette_gives_ids_and_not_colours(tmp_path):
    path = tmp_path / "mask.png"
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:3] = (2, 2, 2), (0, 0, 0), (1, 1, 1)  # colours that would pass for other ids
    save_palette(path, IDS, palette)
    assert np.array_equal(read_label_image(path, CLASSES, (3, 4), (3, 4)), IDS)


def test_a_short_palette_is_stored_with_few_bits_and_still_gives_ids(tmp_path):
    path, ids = tmp_path / "mask.png", np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    save_palette(path, ids, [(9, 9, 9), (200, 0, 0), (0, 0, 200)])
    assert np.array_equal(read_label_image(path, CLASSES, (2, 3), (2, 3)), ids)


def test_grey_ids(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(IDS).save(path)
    labels = read_label_image(path, CLASSES, (3, 4), (3, 4))
    assert np.array_equal(labels, IDS)
    assert labels.dtype == np.uint8


def test_another_size_is_reached_without_new_ids(tmp_path):
    path = tmp_path / "mask.png"
    ids = np.zeros((8, 8), dtype=np.uint8)
    ids[:, 3:] = 2
    Image.fromarray(ids).save(path)
    small = read_label_image(path, CLASSES, (8, 8), (4, 4))
    assert set(np.unique(small)) == {0, 2}  # a mean of 0 and 2 would be a 1
    assert np.array_equal(small[:, [0, 2, 3]], ids[::2, [0, 4, 6]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "1"])
def test_another_mode_is_refused(tmp_path, mode):
    path = tmp_path / "mask.png"
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(DataError, match=r"mask\.png.*palette or grey"):
        read_label_image(path, CLASSES, (3, 4), (3, 4))


def test_a_mask_of_another_size_than_its_image(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(IDS).save(path)
    with pytest.raises(DataError, match=r"mask\.png: mask is 4 x 3 px but its image is 3 x 4 px"):
        read_label_image(path, CLASSES, (4, 3), (4, 3))


@pytest.mark.parametrize("value", [3, 254])
def test_a_value_outside_the_class_map(tmp_path, value):
    path, ids = tmp_path / "mask.png", IDS.copy()
    ids[1, 1] = value
    Image.fromarray(ids).save(path)
    with pytest.raises(DataError, match=rf"mask value {value} is outside the class map \(0 to 2, 255"):
        read_label_image(path, CLASSES, (3, 4), (3, 4))


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_an_unreadable_mask_is_one_line(tmp_path, content):
    path = tmp_path / "mask.png"
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(DataError, match=r"mask\.png: cannot be read") as caught:
        read_label_image(path, CLASSES, (64, 64), (64, 64))
    assert "\n" not in str(caught.value)
