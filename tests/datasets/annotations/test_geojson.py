"""QuPath GeoJSON, the drawing order, and what stands for every kind of annotation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tissuebench.datasets.annotations import ANNOTATION_SUFFIXES, Frame, open_annotation
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import ConfigError, DataError

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
def opened(tmp_path):
    def write_and_open(document, size=(20, 30), scale=1.0, order=None, **options):
        path = tmp_path / "slide.geojson"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        level0 = (round(size[0] * scale), round(size[1] * scale))
        return open_annotation(path, CLASSES, Frame(level0, size, scale), order, **options)

    return write_and_open


@pytest.fixture
def rasterised(opened):
    def whole(document, size=(20, 30), scale=1.0, order=None, **options):
        return opened(document, size, scale, order, **options).raster(0, 0, *size)

    return whole


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


def test_a_geometry_collection_is_its_polygons_and_the_line_is_noted(opened):
    collected = feature([])
    collected["geometry"] = {
        "type": "GeometryCollection",
        "geometries": [
            {"type": "LineString", "coordinates": [[0, 15.5], [29, 15.5]]},
            {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [ring(0, 0, 4, 4)]}]},
            {"type": "MultiPolygon", "coordinates": [[ring(2, 2, 5, 5)], [ring(6, 6, 8, 8)]]},
        ],
    }
    source = opened([collected])
    drawn = expected((20, 30), ((0, 0, 4, 4), 2), ((2, 2, 5, 5), 2), ((6, 6, 8, 8), 2))
    assert np.array_equal(source.raster(0, 0, 20, 30), drawn)
    assert any("feature 0 ('tumour'): left out (LineString" in note for note in source.notes)


def test_parts_of_a_multipolygon_that_overlap_are_united(opened):
    """Repaired together they would cut a hole where both lie."""
    source = opened([feature([[ring(0, 0, 6, 6)], [ring(3, 3, 9, 9)]], kind="MultiPolygon")])
    assert np.array_equal(source.raster(0, 0, 20, 30), expected((20, 30), ((0, 0, 6, 6), 2), ((3, 3, 9, 9), 2)))
    assert source.notes == ("feature 0 ('tumour') has parts that overlap or touch: repaired",)


@pytest.mark.parametrize("key", ["childObjects", "children"])
def test_children_are_drawn_over_their_parents(rasterised, key):
    parent = feature([ring(0, 0, 10, 10)], "stroma")
    parent["properties"][key] = [feature([ring(2, 2, 6, 6)])]
    root = {"type": "Feature", "geometry": None, "properties": {"objectType": "root", key: [parent]}}
    drawn = expected((20, 30), ((0, 0, 10, 10), 1), ((2, 2, 6, 6), 2))
    assert np.array_equal(rasterised([parent]), drawn)
    assert np.array_equal(rasterised({"type": "FeatureCollection", "features": [root]}), drawn)


def test_collections_of_collections(rasterised):
    inner = {"type": "FeatureCollection", "features": [feature([ring(0, 0, 2, 2)], "stroma")]}
    holder = {**feature([ring(4, 4, 9, 9)], "glass"), "features": [feature([ring(5, 5, 6, 6)])]}
    raster = rasterised({"type": "FeatureCollection", "features": [inner, holder]})
    assert np.array_equal(raster, expected((20, 30), ((0, 0, 2, 2), 1), ((4, 4, 9, 9), 0), ((5, 5, 6, 6), 2)))


@pytest.mark.parametrize("kind", ["cell", "detection", "tile", None])
def test_objects_of_every_kind_count(rasterised, kind):
    drawn = feature([ring(0, 0, 2, 2)])
    drawn["properties"]["objectType"] = kind
    assert np.array_equal(rasterised([drawn]), expected((20, 30), ((0, 0, 2, 2), 2)))


def test_a_class_may_be_a_list_of_names_and_a_derived_class_is_not_its_base(rasterised):
    drawn = feature([ring(0, 0, 2, 2)])
    drawn["properties"]["classification"] = {"names": ["tumour"]}
    assert np.array_equal(rasterised([drawn]), expected((20, 30), ((0, 0, 2, 2), 2)))
    for classification in ({"names": ["tumour", "Positive"]}, {"name": "tumour: Positive"}):
        drawn["properties"]["classification"] = classification
        with pytest.raises(DataError, match=r"unknown class 'tumour: Positive'.*known: glass, stroma.*\(feature 0\)"):
            rasterised([drawn])


def test_the_name_of_an_object_is_not_its_class(rasterised):
    drawn = feature([ring(0, 0, 2, 2)])
    drawn["properties"] = {"objectType": "annotation", "name": "tumour"}
    with pytest.raises(DataError, match=r"no annotation with an area and a class \(.*no label: 1 without a class\)"):
        rasterised([drawn])


def test_scale_is_level0_pixels_per_raster_pixel(rasterised):
    drawn = [feature([ring(8, 13, 40, 80)])]
    assert np.array_equal(rasterised(drawn, scale=4.0), expected((20, 30), ((2, 3, 10, 20), 2)))
    assert np.array_equal(rasterised(drawn, (10, 15), 8.0), expected((10, 15), ((1, 2, 5, 10), 2)))


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(rasterised):
    assert np.array_equal(rasterised([feature([ring(1.6, 2.4, 4.4, 6.6)])]), expected((20, 30), ((2, 2, 4, 7), 2)))


def test_what_reaches_beyond_the_slide_is_cut_and_noted(opened):
    source = opened([feature([ring(-1, -5, 9, 40)]), feature([ring(10, 10, 12, 30.9)])])
    assert np.array_equal(source.raster(0, 0, 20, 30), expected((20, 30), ((0, 0, 9, 30), 2), ((10, 10, 12, 30), 2)))
    assert source.notes == ("feature 0 ('tumour') reaches 10 px beyond the slide: clipped",)


def test_most_of_a_drawing_beyond_the_slide_is_refused(rasterised):
    with pytest.raises(DataError, match=r"feature 0 .'tumour'. lies mostly outside the slide .*, 70% of what is drawn"):
        rasterised([feature([ring(0, 0, 20, 99)])])


def test_an_area_without_bounds_is_no_stray(rasterised):
    with pytest.raises(DataError, match=r"feature 1 .'tumour'. lies outside the slide"):
        rasterised([feature([ring(0, 0, 20, 30)]), feature([ring(1e200, 1e200, 2e200, 2e200)])])


def test_a_few_strays_outside_the_slide_are_left_out_and_noted(opened):
    whole, speck = feature([ring(0, 0, 20, 30)]), feature([ring(-5, -5, -1, -1)])
    source = opened([whole, speck])
    assert np.array_equal(source.raster(0, 0, 20, 30), expected((20, 30), ((0, 0, 20, 30), 2)))
    assert source.notes == ("feature 1 ('tumour') lies outside the slide: left out",)
    assert opened([whole, speck, speck]).notes == ("feature 1 ('tumour') and 1 more lie outside the slide: left out",)
    with pytest.raises(DataError, match=r"feature 1 .'tumour'. lies outside the slide .*, 12% of what is drawn"):
        opened([whole, *[speck] * 5])


@pytest.mark.parametrize(
    "coordinates",
    [
        [ring(5, 31, 9, 40)],
        [ring(-9, 2, -1, 4)],
        [ring(20, 2, 22, 4)],  # shares the slide's edge and no area with it
        [[[-5, 18], [15, 38], [-5, 38], [-5, 18]]],  # around the corner: the boxes overlap
    ],
)
def test_a_polygon_outside_of_the_slide_is_refused(rasterised, coordinates):
    with pytest.raises(
        DataError, match=r"feature 1 .'tumour'. lies outside the slide \(x -?\d+ to \d+.*30 x 20"
    ) as caught:
        rasterised([feature([ring(0, 0, 2, 2)]), feature(coordinates)])
    assert "another slide or another level" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_polygon_that_crosses_itself_is_repaired_and_noted(opened):
    bowtie = feature([[[0, 0], [20, 20], [20, 0], [0, 20], [0, 0]]])
    y, x = np.mgrid[0:20, 0:30] + 0.5
    inside = (x < 20) & (np.abs(y - 10) < np.abs(x - 10))
    edge = (np.abs(np.abs(y - 10) - np.abs(x - 10)) < 0.1) | (x > 20)
    source = opened([feature([ring(0, 28, 2, 30)]), bowtie])
    raster = source.raster(0, 0, 20, 30)
    assert np.array_equal((raster == 2)[~edge], inside[~edge])
    assert inside[~edge].any()
    assert source.notes == ("feature 1 ('tumour') crosses itself: repaired",)


def test_a_loop_closed_beyond_its_start_is_what_it_encloses(rasterised):
    """Where the ends overlap the outline runs around twice; by odd and even crossings that would be a hole."""
    twice = feature([[[2, 2], [12, 2], [12, 12], [2, 12], [2, 1], [13, 1], [13, 8], [2, 8], [2, 2]]])
    drawn = (((2, 2, 12, 12), 2), ((1, 2, 8, 13), 2))
    assert np.array_equal(rasterised([twice]), expected((20, 30), *drawn))


def test_a_hole_that_shares_edges_with_its_polygon_is_a_hole(rasterised):
    raster = rasterised(
        [feature([ring(4, 4, 8, 8), ring(6, 6, 8, 8)]), feature([ring(10, 10, 16, 16), ring(14, 14, 19, 19)])]
    )
    drawn = (((4, 4, 8, 8), 2), ((6, 6, 8, 8), 255), ((10, 10, 16, 16), 2), ((14, 14, 16, 16), 255))
    assert np.array_equal(raster, expected((20, 30), *drawn))


def test_a_spike_of_a_polygon_labels_nothing(rasterised):
    """A repair turns the spike into a line, which has no area."""
    spiked = feature([[[0, 0], [4, 0], [4, 4], [15, 4], [4, 4], [0, 4], [0, 0]]])
    assert np.array_equal(rasterised([spiked]), expected((20, 30), ((0, 0, 4, 4), 2)))


def test_points_lines_and_flat_polygons_are_left_out_with_a_note(opened):
    point, line = feature([5.5, 5.5], None, "Point"), feature([[0.5, 7.5], [20.5, 7.5]], "mitosis", "LineString")
    flat = feature([[[0, 0], [9, 9], [0, 0], [0, 0]]])
    source = opened([point, feature([ring(0, 0, 2, 2)]), line, flat])
    assert np.array_equal(source.raster(0, 0, 20, 30), expected((20, 30), ((0, 0, 2, 2), 2)))
    assert len(source.notes) == 3
    assert source.notes[0] == "feature 0: left out (Point without an area)"
    assert source.notes[1] == "feature 2: left out (LineString without an area)"
    assert source.notes[2] == "feature 3 ('tumour'): left out (no area)"
    with pytest.raises(DataError, match="holds no annotation with an area"):
        opened([point, line])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            [feature([ring(0, 0, 2, 2)], "tumor")],
            r"unknown class 'tumor': did you mean 'tumour'\? known: glass, stroma, tumour \(feature 0\); rename in QuPath, "
            r"or write in dataset\.yaml: class_names: \{tumor: tumour\}$",
        ),
        ([{**feature([ring(0, 0, 2, 2)]), "properties": {}}], "1 without a class"),
        ([{**feature([ring(0, 0, 2, 2)]), "properties": None}], "1 without a class"),
        ([feature([ring(0, 0, 2, 2)], 7)], "unknown class '7'"),
        ([feature([ring(0, 0, 2, 2)], "a\nb")], r'class_names: \{"a\\nb": null\} \(null leaves out\)$'),
        ("{broken", "cannot be read as GeoJSON"),
        ("\ufeff\x00", "cannot be read as UTF-8 text"),
        ("", "cannot be read as GeoJSON"),
        ("[" * 100_000, "cannot be read as GeoJSON"),
        ([], "no annotation"),
        ({"type": "FeatureCollection", "features": None}, "no annotation"),
        (7, "no annotation"),
        ([5], "feature 0 is not a GeoJSON feature"),
        ({"type": "Feature"}, "feature 0 is not a GeoJSON feature"),
        (
            [{"geometry": None, "properties": {"classification": {"name": "tumour"}}}],
            "feature 0: left out .no geometry",
        ),
        ([feature([[[0, 0], [1, 1]]])], r"holds no annotation with an area and a class \(feature 0: left out"),
        ([feature([], kind="Pentagon")], "feature 0 is not"),
        ([feature([ring(0, 0, 2, float("nan"))])], "feature 0 .'tumour'. has a coordinate that is not a finite"),
        ([feature([ring(0, 0, 2, float("inf"))])], "feature 0 .'tumour'. has a coordinate that is not a finite"),
        ([feature([ring(0, 0, 2, 10**400)])], "feature 0 is not"),
        ([feature([ring(0, 0, 2, "wide")])], "feature 0 is not"),
    ],
)
def test_broken_annotations_are_one_line_that_names_the_file(rasterised, document, message):
    with pytest.raises(DataError, match=message) as caught:
        rasterised(document)
    assert "slide.geojson" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ANNOTATION_SUFFIXES)
def test_a_missing_annotation_names_the_column(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"none\{suffix}.*column 'annotation'"):
        open_annotation(tmp_path / f"none{suffix}", CLASSES, Frame((4, 4), (4, 4), 1.0))


def test_an_unknown_ending_names_the_known_ones(tmp_path):
    (tmp_path / "mask.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"mask\.jpg: unknown annotation format '\.jpg'; known: \.geojson, .*\.png"):
        open_annotation(tmp_path / "mask.jpg", CLASSES, Frame((4, 4), (4, 4), 1.0))


def nested(*names):
    """Ever smaller squares in the order given; which one is seen says what was drawn last."""
    return [feature([ring(0, 0, 10, 10)], name) for name in names]


@pytest.mark.parametrize(
    ("names", "order", "seen"),
    [
        (("tumour", "stroma", "glass"), None, 0),
        (("tumour", "stroma", "glass"), ("glass", "stroma", "tumour"), 2),
        (("tumour", "stroma", "glass"), ("tumour", "glass", "stroma"), 1),
        (("tumour", "stroma", "glass"), ("stroma",), 1),
        (("stroma", "tumour", "glass"), ("stroma", "tumour"), 2),
        (("stroma", "glass", "tumour"), ("glass",), 0),
        (("glass", "stroma", "tumour"), (), 2),
    ],
)
def test_the_drawing_order_says_what_lies_on_top(rasterised, names, order, seen):
    assert (rasterised(nested(*names), order=order)[:10, :10] == seen).all()


def test_within_a_class_and_among_unlisted_classes_the_order_of_the_file_stays(rasterised):
    document = [
        feature([ring(0, 0, 8, 8)], "tumour"),
        feature([ring(0, 0, 4, 4)], "glass"),
        feature([ring(2, 2, 6, 6)], "stroma"),
        feature([ring(0, 6, 8, 8)], "glass"),
    ]
    raster = rasterised(document, order=("tumour",))
    assert np.array_equal(raster, expected((20, 30), ((0, 0, 8, 8), 2)))
    raster = rasterised(document[1:], order=("tumour",))
    drawn = (((0, 0, 4, 4), 0), ((2, 2, 6, 6), 1), ((0, 6, 8, 8), 0))
    assert np.array_equal(raster, expected((20, 30), *drawn))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"order": ("stroma", "tumor")},
            r"drawing order: unknown class 'tumor': did you mean 'tumour'\?.*known: glass",
        ),
        ({"order": ("stroma", "stroma")}, "drawing order names class 'stroma' twice"),
        ({"region_class": "nucleus"}, "unknown class 'nucleus'"),
        ({"background": "Glass"}, r"did you mean 'glass'\?"),
    ],
)
def test_options_that_name_no_class(rasterised, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        rasterised([feature([ring(0, 0, 2, 2)])], **options)
    assert "\n" not in str(caught.value)


def test_every_polygon_may_be_declared_one_class_and_the_rest_background(rasterised):
    document = [feature([ring(0, 0, 2, 2)], ""), feature([ring(4, 4, 6, 6), ring(5, 5, 6, 6)], "nucleus")]
    raster = rasterised(document, region_class="tumour", background="glass")
    drawn = (((0, 0, 20, 30), 0), ((0, 0, 2, 2), 2), ((4, 4, 6, 6), 2), ((5, 5, 6, 6), 0))
    assert np.array_equal(raster, expected((20, 30), *drawn))
