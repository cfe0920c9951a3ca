"""Names of classes as annotators write them: QuPath's own, other spellings, the dataset's table, and unknown ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("glass", "stroma", "tumour", "Dr\u00fcse"), ((9, 9, 9), (1, 1, 1), (2, 2, 2), (3, 3, 3)))
SIZE = (4, 40)


def square(place, classification=None, **more):
    """A pixel-aligned square number ``place`` of a row of ten; its classification is a name or an object."""
    x = place * 4
    ring = [[x, 0], [x + 4, 0], [x + 4, 4], [x, 4], [x, 0]]
    if isinstance(classification, str):
        classification = {"name": classification}
    properties = {"objectType": "annotation", "classification": classification, **more}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


@pytest.fixture
def opened(tmp_path):
    def write_and_open(*features, classes=CLASSES, **table):
        path = tmp_path / "slide.geojson"
        path.write_text(json.dumps(features))
        return open_annotation(path, classes, Frame(SIZE, SIZE, 1.0), class_names=table)

    return write_and_open


def seen(source):
    """The class of each square; 255 if it has none."""
    raster = source.raster(0, 0, *SIZE)
    assert np.array_equal(raster, raster[:1, ::4].repeat(4, axis=0).repeat(4, axis=1))
    return raster[0, ::4].tolist()[: -1 if raster[0, -1] == 255 else None][:6]


def test_what_qupath_does_not_mean_as_a_label_is_left_out_with_one_note(opened):
    roi, core = square(0), square(1, objectType="tmaCore")
    source = opened(roi, square(2, "tumour"), core, square(3, "Ignore*"), square(4, "Region*"), square(5, "Ignore*"))
    assert seen(source) == [255, 255, 2, 255, 255, 255]
    assert source.notes == ("areas left out because they are no label: 2 without a class, 2 'Ignore*', 1 'Region*'",)


def test_a_class_that_begins_like_qupaths_own_is_a_class(opened):
    with pytest.raises(DataError, match="unknown class 'Regional lymph node'"):
        opened(square(0, "Regional lymph node"))
    classes = ClassMap(("glass", "Ignore*"), ((9, 9, 9), (1, 1, 1)))
    assert seen(opened(square(0, "Ignore*"), classes=classes))[0] == 1


@pytest.mark.parametrize(
    ("classification", "value", "note"),
    [
        ("Dru\u0308se", 3, ()),
        (" tumour\u00a0", 2, ()),
        ("Tumour", 2, ("class 'Tumour' is read as 'tumour' (1 area)",)),
        ({"names": ["TUMOUR"]}, 2, ("class 'TUMOUR' is read as 'tumour' (1 area)",)),
        (["tumour"], 2, ()),
    ],
)
def test_a_class_in_another_spelling(opened, classification, value, note):
    source = opened(square(1, classification))
    assert seen(source)[1] == value
    assert source.notes == note


def test_a_classification_may_be_a_bare_name(opened):
    bare = square(1)
    bare["properties"]["classification"] = "tumour"
    assert seen(opened(bare))[1] == 2


def test_two_classes_that_differ_by_capitals_are_two(opened):
    classes = ClassMap(("glass", "Tumour", "tumour"), ((9, 9, 9), (1, 1, 1), (2, 2, 2)))
    assert seen(opened(square(0, "Tumour"), square(1, "tumour"), classes=classes))[:2] == [1, 2]
    with pytest.raises(DataError, match="unknown class 'TUMOUR'"):
        opened(square(0, "TUMOUR"), classes=classes)


def test_all_unknown_classes_are_named_at_once_with_the_line_to_write(opened):
    with pytest.raises(DataError) as caught:
        opened(square(0, "Tumor"), square(1, "Tumor"), square(2, "stroma"), square(3, "Nekrose: 2"), square(4, "no"))
    assert str(caught.value).partition("slide.geojson: ")[2] == (
        "unknown classes 'Tumor' (2 areas), 'Nekrose: 2' (1 area), 'no' (1 area); known: glass, stroma, tumour, Dr\u00fcse; "
        'rename in QuPath, or write in dataset.yaml: class_names: {Tumor: tumour, "Nekrose: 2": null, "no": null} '
        "(null leaves out)"
    )


def test_the_table_names_classes_exactly_and_by_pattern(opened):
    table = {"Tumor": "tumour", "Tumor*": None, "Immune ?ells": "stroma", "": "glass", "stroma*": "glass"}
    names = ["Tumor", "Tumor: Positive", "immune cells", None, "stroma", "Stroma 2"]
    source = opened(*(square(place, name) for place, name in enumerate(names)), **table)
    assert seen(source) == [2, 255, 1, 0, 1, 0]
    assert source.notes == ("areas left out because they are no label: 1 'Tumor: Positive'",)


def test_a_pattern_for_everything_is_for_what_is_no_class(opened):
    source = opened(square(0, "tumour"), square(1, "Blut"), square(2, "Falte"), **{"*": None})
    assert seen(source)[:3] == [2, 255, 255]


def test_a_file_of_which_nothing_remains_is_refused_with_the_reason(opened):
    with pytest.raises(
        DataError, match=r"no annotation with an area and a class \(.*no label: 1 without a class, 1 'Ig"
    ):
        opened(square(0), square(1, "Ignore*"))


def test_the_table_is_for_asap_and_imagescope_too(tmp_path):
    corners = [(0, 0), (4, 0), (4, 4), (0, 4)]
    asap = tmp_path / "asap.xml"
    at = "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}" />' for order, (x, y) in enumerate(corners))
    asap.write_text(
        "<ASAP_Annotations><Annotations>"
        f'<Annotation Name="A" Type="Polygon" PartOfGroup="Krebs"><Coordinates>{at}</Coordinates></Annotation>'
        '</Annotations><AnnotationGroups><Group Name="Krebs" PartOfGroup="None" /></AnnotationGroups></ASAP_Annotations>'
    )
    aperio = tmp_path / "aperio.xml"
    at = "".join(f'<Vertex X="{x}" Y="{y}" />' for x, y in corners)
    region = f'<Region Type="0" Text="{{}}"><Vertices>{at}</Vertices></Region>'
    aperio.write_text(
        f'<Annotations><Annotation Name="Layer 1"><Regions>{region.format("Krebs")}{region.format("")}</Regions>'
        "</Annotation></Annotations>"
    )
    frame = Frame(SIZE, SIZE, 1.0)
    for path, table in ((asap, {"Krebs": "tumour"}), (aperio, {"Krebs": "tumour", "Layer*": None})):
        source = open_annotation(path, CLASSES, frame, class_names=table)
        assert seen(source)[0] == 2
    assert source.notes == ("areas left out because they are no label: 1 'Layer 1'",)


def test_a_hole_of_a_class_in_the_table_is_a_hole(tmp_path):
    """A pattern for everything does not make a group of holes a class of its own."""

    def annotation(group, *corners):
        at = "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}" />' for order, (x, y) in enumerate(corners))
        return f'<Annotation Name="A" Type="Polygon" PartOfGroup="{group}"><Coordinates>{at}</Coordinates></Annotation>'

    path = tmp_path / "asap.xml"
    solid = annotation("Krebs", (0, 0), (8, 0), (8, 4), (0, 4))
    hole = annotation("Krebs_hole", (4, 0), (8, 0), (8, 4), (4, 4))
    path.write_text(f"<ASAP_Annotations><Annotations>{solid}{hole}</Annotations></ASAP_Annotations>")
    source = open_annotation(path, CLASSES, Frame(SIZE, SIZE, 1.0), class_names={"Krebs": "tumour", "*": None})
    assert seen(source)[:2] == [2, 255]
