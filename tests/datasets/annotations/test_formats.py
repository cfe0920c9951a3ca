"""ASAP and Aperio XML, and that one slide's annotation says the same in every format."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (200, 100, 150), (90, 20, 120)))
SIZE = (20, 30)


@pytest.fixture
def opened(tmp_path):
    def write_and_open(text, **options):
        path = tmp_path / "slide.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_annotation(path, CLASSES, Frame(SIZE, SIZE, 1.0), **options)

    return write_and_open


def expected(*boxes):
    raster = np.full(SIZE, 255, dtype=np.uint8)
    for (y0, x0, y1, x1), value in boxes:
        raster[y0:y1, x0:x1] = value
    return raster


def corners(y0, x0, y1, x1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def asap_shape(points, group="tumour", kind="Polygon", ordered=range):
    coordinates = "".join(
        f'<Coordinate Order="{order}" X="{x}" Y="{y}" />'
        for order, (x, y) in zip(ordered(len(points)), points, strict=True)
    )
    return (
        f'<Annotation Name="A" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation>"
    )


def asap(*shapes, groups=()):
    listed = "".join(
        f'<Group Name="{name}" PartOfGroup="{above}" Color="#0"><Attributes /></Group>' for name, above in groups
    )
    return (
        f"<ASAP_Annotations><Annotations>{''.join(shapes)}</Annotations>"
        f"<AnnotationGroups>{listed}</AnnotationGroups></ASAP_Annotations>"
    )


def aperio_region(points, text="", kind=0, negative=0, description=""):
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in points)
    attributes = f'<Attributes><Attribute Id="1" Name="Description" Value="{description}" /></Attributes>'
    return (
        f'<Region Id="1" Type="{kind}" Text="{text}" NegativeROA="{negative}">'
        f"{attributes}<Vertices>{vertices}</Vertices></Region>"
    )


def aperio_layer(*regions, name="", description=""):
    return (
        f'<Annotation Id="1" Name="{name}" LineColor="65280"><Attributes>'
        f'<Attribute Name="Description" Id="0" Value="{description}" /></Attributes>'
        f"<Regions><RegionAttributeHeaders />{''.join(regions)}</Regions></Annotation>"
    )


def aperio(*layers):
    return f'<?xml version="1.0"?><Annotations MicronsPerPixel="0.5">{"".join(layers)}</Annotations>'


@pytest.mark.parametrize("kind", ["Polygon", "Spline", "Rectangle"])
def test_asap_areas(opened, kind):
    raster = opened(asap(asap_shape(corners(2, 3, 8, 9), "stroma", kind))).raster(0, 0, *SIZE)
    assert np.array_equal(raster, expected(((2, 3, 8, 9), 1)))


def test_an_asap_rectangle_may_be_two_corners(opened):
    raster = opened(asap(asap_shape([(9, 8), (3, 2)], "stroma", "Rectangle"))).raster(0, 0, *SIZE)
    assert np.array_equal(raster, expected(((2, 3, 8, 9), 1)))


def test_asap_corners_go_by_their_order_and_not_by_their_place(opened):
    shuffled = [corners(2, 3, 8, 9)[index] for index in (0, 2, 1, 3)]
    source = opened(asap(asap_shape(shuffled, ordered=lambda _: (0, 2, 1, 3))))
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((2, 3, 8, 9), 2)))
    assert source.notes == ()


@pytest.mark.parametrize("kind", ["Dot", "PointSet", "Measurement"])
def test_asap_shapes_without_an_area_are_left_out_with_a_note(opened, kind):
    source = opened(asap(asap_shape([(5, 5)], "mitosis", kind), asap_shape(corners(2, 3, 8, 9))))
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((2, 3, 8, 9), 2)))
    assert source.notes == (f"annotation 0 ('A'): left out ({kind} without an area)",)


def test_an_asap_group_below_a_class_is_of_that_class(opened):
    shapes = asap_shape(corners(0, 0, 4, 4), "invasive"), asap_shape(corners(6, 6, 8, 8), "stroma")
    groups = [("invasive", "malignant"), ("malignant", "tumour"), ("tumour", "None"), ("stroma", "tumour")]
    raster = opened(asap(*shapes, groups=groups)).raster(0, 0, *SIZE)
    assert np.array_equal(raster, expected(((0, 0, 4, 4), 2), ((6, 6, 8, 8), 1)))


def test_asap_groups_that_are_part_of_each_other_do_not_go_on_forever(opened):
    with pytest.raises(DataError, match=r"unknown class 'a': known: .*annotation 0 \('A'\)"):
        opened(asap(asap_shape(corners(0, 0, 4, 4), "a"), groups=[("a", "b"), ("b", "a")]))


def test_an_asap_hole_is_cut_out_of_its_class_alone_and_islands_stay(opened):
    """The island is listed before the hole, and the hole before the other polygon that it cuts."""
    shapes = (
        asap_shape(corners(0, 0, 20, 30), "stroma"),
        asap_shape(corners(6, 6, 8, 8), "tumour"),
        asap_shape(corners(4, 4, 12, 12), "tumour_hole"),
        asap_shape(corners(2, 2, 14, 14), "tumour"),
    )
    source = opened(asap(*shapes))
    drawn = (((0, 0, 20, 30), 1), ((2, 2, 14, 14), 2), ((4, 4, 12, 12), 1), ((6, 6, 8, 8), 2))
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(*drawn))
    assert len(source.notes) == 1
    assert "kept as an island" in source.notes[0]


def test_a_hole_that_cuts_nothing_and_a_region_cut_away_are_noted(opened):
    shapes = (
        asap_shape(corners(0, 0, 4, 4), "tumour"),
        asap_shape(corners(0, 4, 4, 8), "tumour_hole"),  # touches it
        asap_shape(corners(9, 9, 12, 12), "stroma"),
        asap_shape(corners(9, 9, 12, 12), "stroma_hole"),
    )
    source = opened(asap(*shapes))
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((0, 0, 4, 4), 2)))
    assert len(source.notes) == 2
    assert "annotation 1" in source.notes[0]
    assert "it lies in no region" in source.notes[0]
    assert "annotation 2" in source.notes[1]
    assert "its holes leave nothing" in source.notes[1]


@pytest.mark.parametrize("kind", ["freehand", "rectangle"])
def test_aperio_areas_and_holes_of_their_layer(opened, kind):
    number = {"freehand": 0, "rectangle": 1}[kind]
    text = aperio(
        aperio_layer(aperio_region(corners(0, 0, 20, 30)), name="stroma"),
        aperio_layer(
            aperio_region(corners(4, 4, 8, 8), kind=number, negative=1),
            aperio_region(corners(2, 2, 14, 14), kind=number),
            name="tumour",
        ),
    )
    source = opened(text)
    drawn = ((0, 0, 20, 30), 1), ((2, 2, 14, 14), 2), ((4, 4, 8, 8), 1)
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(*drawn))
    assert source.notes == ()


def test_an_aperio_rectangle_may_be_two_corners(opened):
    source = opened(aperio(aperio_layer(aperio_region([(3, 8), (9, 2)], kind=1), name="tumour")))
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((2, 3, 8, 9), 2)))


@pytest.mark.parametrize("points", [[(4, 3), (26, 17)], [(26, 3), (4, 17)], corners(3, 4, 17, 26)])
def test_an_aperio_ellipse_is_given_by_its_box(opened, points):
    source = opened(aperio(aperio_layer(aperio_region(points, kind=2), name="tumour")))
    y, x = np.mgrid[0:20, 0:30] + 0.5
    radius = np.hypot((x - 15) / 11, (y - 10) / 7)
    clear = np.abs(radius - 1) > 0.02
    assert np.array_equal((source.raster(0, 0, *SIZE) == 2)[clear], (radius < 1)[clear])
    assert clear.mean() > 0.9


def test_a_large_ellipse_is_drawn_out_finely_enough(tmp_path):
    path = tmp_path / "slide.xml"
    path.write_text(aperio(aperio_layer(aperio_region([(0, 0), (8000, 8000)], kind=2), name="tumour")))
    raster = open_annotation(path, CLASSES, Frame((8000, 8000), (8000, 8000), 1.0)).raster(900, 900, 600, 600)
    y, x = np.mgrid[900:1500, 900:1500] + 0.5
    radius = np.hypot(x - 4000, y - 4000)
    clear = np.abs(radius - 4000) > 0.2
    assert np.array_equal((raster == 2)[clear], (radius < 4000)[clear])


def test_other_aperio_types_are_left_out_with_a_note(opened):
    layer = aperio_layer(aperio_region([(0, 0), (9, 9)], kind=3), aperio_region(corners(2, 3, 8, 9)), name="tumour")
    source = opened(aperio(layer))
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((2, 3, 8, 9), 2)))
    assert source.notes == ("region 0 of layer 0 ('tumour'): left out (type 3 without an area)",)


@pytest.mark.parametrize(
    ("layer", "region"),
    [
        ({"name": "tumour"}, {}),
        ({}, {"text": "tumour"}),
        ({"description": "tumour"}, {}),
        ({}, {"description": "tumour"}),
        ({"name": "Layer 1"}, {"text": "tumour"}),
        ({"name": "tumour"}, {"text": "please check"}),
        ({"name": "tumour", "description": "tumour"}, {"text": "tumour"}),
    ],
)
def test_the_class_of_an_aperio_region_stands_in_one_of_four_fields(opened, layer, region):
    source = opened(aperio(aperio_layer(aperio_region(corners(2, 3, 8, 9), **region), **layer)))
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((2, 3, 8, 9), 2)))


SQUARE = corners(2, 3, 8, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            asap(asap_shape(SQUARE, "tumor")),
            r"unknown class 'tumor': did you mean 'tumour'\?.*annotation 0 \('A'\).*rename in ASAP",
        ),
        (asap(asap_shape(SQUARE, "None")), "no annotation with an area and a class .*1 without a class"),
        (asap(asap_shape(SQUARE, "tumor_hole")), "unknown class 'tumor'"),
        (asap(asap_shape(SQUARE, kind="Blob")), "annotation 0 .*has the type 'Blob'; known: Polygon, Spline"),
        (asap(asap_shape([("a", 1), (2, 2), (3, 1)])), "annotation 0 .*needs numbers X and Y"),
        (asap(asap_shape([("nan", 1), (2, 2), (3, 1)])), "annotation 0 .*not a finite number"),
        (asap(asap_shape([(1, 1), (2, 2)])), "no annotation with an area"),
        (asap(asap_shape([])), "no annotation with an area"),
        (asap(), "no annotation with an area"),
        (asap(asap_shape(corners(0, 40, 5, 50))), "annotation 0 .*lies outside the slide"),
        (
            aperio(aperio_layer(aperio_region(SQUARE))),
            "no annotation with an area and a class .*1 without a class",
        ),
        (aperio(aperio_layer(aperio_region(SQUARE), name="Layer 1")), "unknown class 'Layer 1': known: glass, stroma"),
        (
            aperio(aperio_layer(aperio_region(SQUARE, text="stroma"), name="tumour")),
            "region 0 of layer 0 .*'tumour' and 'stroma', which are two classes",
        ),
        (aperio(aperio_layer(aperio_region([(1, ""), (2, 2), (3, 1)]), name="tumour")), "needs numbers X and Y"),
        (aperio(aperio_layer(aperio_region([("inf", 1), (2, 2)], kind=2), name="tumour")), "not a finite number"),
        (aperio(), "no annotation with an area"),
        ("<kml />", "the root element is 'kml'; known: 'ASAP_Annotations'"),
        ("<Annotations>", "cannot be read as XML"),
        ("", "cannot be read as XML"),
        (b"\xff\xfe\x00<", "cannot be read as XML"),
        ('<?xml version="1.0" encoding="klingon"?><Annotations />', "cannot be read as XML"),
    ],
)
def test_broken_xml_is_one_line_that_names_the_file(opened, text, message):
    with pytest.raises(DataError, match=message) as caught:
        opened(text).raster(0, 0, *SIZE)
    assert "slide.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entities_are_refused_and_not_followed(opened, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("tumour")
    for entity in (f'SYSTEM "{secret}"', '"tumour"'):
        with pytest.raises(DataError, match="cannot be read as XML") as caught:
            opened(
                f"<!DOCTYPE Annotations [<!ENTITY e {entity}>]>"
                + aperio(aperio_layer(aperio_region(SQUARE), name="&e;")).split("?>")[1]
            )
        assert "\n" not in str(caught.value)


def test_regions_of_a_declared_class_need_no_name(opened):
    source = opened(aperio(aperio_layer(aperio_region(SQUARE, text="1"))), region_class="stroma", background="glass")
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((0, 0, 20, 30), 0), ((2, 3, 8, 9), 1)))
    source = opened(asap(asap_shape(SQUARE, "None")), region_class="stroma")
    assert np.array_equal(source.raster(0, 0, *SIZE), expected(((2, 3, 8, 9), 1)))


def test_the_drawing_order_holds_for_xml_too(opened):
    shapes = asap_shape(SQUARE, "tumour"), asap_shape(corners(0, 0, 20, 30), "stroma")
    assert (opened(asap(*shapes)).raster(0, 0, *SIZE) == 1).all()
    on_top = opened(asap(*shapes), drawing_order=("stroma", "tumour")).raster(0, 0, *SIZE)
    assert np.array_equal(on_top, expected(((0, 0, 20, 30), 1), ((2, 3, 8, 9), 2)))


REAL = ClassMap(("Tissue", "Hematoxylin-rich"), ((1, 1, 1), (2, 2, 2)))
LEVEL0 = {"CMU-1-Small-Region": (2967, 2220), "TCGA-CR-7395-01A-01-TS1": (3567, 4443)}


@pytest.mark.parametrize("name", sorted(LEVEL0))
@pytest.mark.parametrize("scale", [1.0, 2.0008, 4.0])
def test_one_slide_in_three_formats_gives_the_same_labels(shared_data, name, scale):
    folder = shared_data / "wsi_small" / "annotations"
    size = tuple(round(side / scale) for side in LEVEL0[name])
    frame = Frame(LEVEL0[name], size, scale)
    rasters = [
        open_annotation(folder / f"{name}.{ending}", REAL, frame).raster(0, 0, *size)
        for ending in ("geojson", "asap.xml", "aperio.xml")
    ]
    assert set(np.unique(rasters[0])) == {0, 1, 255}
    assert np.array_equal(rasters[0], rasters[1])
    assert np.array_equal(rasters[0], rasters[2])


@pytest.mark.parametrize("name", sorted(LEVEL0))
def test_real_annotations_give_the_mask_that_came_with_them(shared_data, name):
    """The mask was drawn by other rules: 0.6 and 0.7 % of its pixels differ, all of them within 1 px of a boundary."""
    folder = shared_data / "wsi_small" / "annotations"
    truth = np.asarray(Image.open(folder / f"{name}.mask_ds4.png"))
    raster = open_annotation(folder / f"{name}.geojson", REAL, Frame(LEVEL0[name], truth.shape, 4.0))
    found = np.where((labels := raster.raster(0, 0, *truth.shape)) == 255, 0, labels + 1)
    cross = ndimage.generate_binary_structure(2, 2)
    low, high = (filtered(truth, footprint=cross) for filtered in (ndimage.minimum_filter, ndimage.maximum_filter))
    wrong = found != truth
    assert not (wrong & (low == high)).any()
    assert 0 < wrong.mean() < 0.008
    shifted = np.roll(found, 1, axis=1) != truth
    assert shifted.mean() > 1.2 * wrong.mean()


@pytest.mark.parametrize("name", sorted(LEVEL0))
def test_the_shipped_mask_is_read_at_a_quarter_of_the_slide(shared_data, tmp_path, name):
    """As a label image at level 0 it is its own enlargement, up to the strip that its whole pixels do not reach."""
    folder = shared_data / "wsi_small" / "annotations"
    classes = ClassMap(("none", *REAL.names), ((0, 0, 0), *REAL.colors))
    path = folder / f"{name}.mask_ds4.png"
    truth = np.asarray(Image.open(path))
    labels = open_annotation(path, classes, Frame(LEVEL0[name], LEVEL0[name], 1.0)).raster(0, 0, *LEVEL0[name])
    large = truth.repeat(4, axis=0).repeat(4, axis=1)[: LEVEL0[name][0], : LEVEL0[name][1]]
    assert np.array_equal(labels[: large.shape[0], : large.shape[1]], large)
    rest = np.ones(labels.shape, dtype=bool)
    rest[: large.shape[0], : large.shape[1]] = False
    assert rest.any()
    assert (labels[rest] == 255).all()
    as_geojson = json.loads((folder / f"{name}.geojson").read_text())
    assert len(as_geojson["features"]) > 1
