"""GeoJSON files as they come: compressed, in other encodings, with broken parts, and many small ones."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from tissuebench.datasets.annotations import Frame, geojson_text, open_annotation
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("stroma", "Dr\u00fcse"), ((1, 1, 1), (2, 2, 2)))
FRAME = Frame((8, 8), (8, 8), 1.0)
RING = [[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]


def feature(coordinates, kind="Polygon", name="Dr\u00fcse"):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"classification": {"name": name}},
    }


WHOLE = json.dumps([feature([RING])], ensure_ascii=False)


@pytest.mark.parametrize(
    "name", ["slide.geojson.gz", "slide.json.gz", "slide.geojson", "slide.GEOJSON", "SLIDE.JSON.GZ"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_compressed_file_is_told_by_its_content(tmp_path, name, packed):
    content = WHOLE.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert (open_annotation(tmp_path / name, CLASSES, FRAME).raster(0, 0, 8, 8) == 1).all()


@pytest.mark.parametrize("content", [b"\x1f\x8b", gzip.compress(WHOLE.encode())[:-12], b"\x1f\x8b" + b"x" * 40])
def test_a_damaged_compressed_file_is_one_line(tmp_path, content):
    (tmp_path / "slide.geojson.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"slide\.geojson\.gz: cannot be read as GeoJSON") as caught:
        open_annotation(tmp_path / "slide.geojson.gz", CLASSES, FRAME)
    assert "\n" not in str(caught.value)


def test_a_file_that_unpacks_to_far_more_than_outlines_do_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(geojson_text, "_ALWAYS", 1 << 20)
    path = tmp_path / "slide.geojson.gz"
    path.write_bytes(gzip.compress(b" " * (4 << 20) + WHOLE.encode()))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        open_annotation(path, CLASSES, FRAME)
    path.write_bytes(gzip.compress(b" " * (1 << 19) + WHOLE.encode()))
    open_annotation(path, CLASSES, FRAME)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_encoding_with_a_mark_is_read(tmp_path, encoding):
    (tmp_path / "slide.geojson").write_bytes(WHOLE.encode(encoding))
    assert (open_annotation(tmp_path / "slide.geojson", CLASSES, FRAME).raster(0, 0, 8, 8) == 1).all()


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("cp1252", "0xfc in line 1; it looks like Windows-1252"), ("utf-16-le", "without a byte order")],
)
def test_another_encoding_is_named(tmp_path, encoding, message):
    (tmp_path / "slide.geojson").write_bytes(WHOLE.encode(encoding))
    with pytest.raises(DataError, match=rf"cannot be read as UTF-8 text \(.*{message}.*save it as UTF-8"):
        open_annotation(tmp_path / "slide.geojson", CLASSES, FRAME)


def opened(tmp_path, *features):
    path = tmp_path / "slide.geojson"
    path.write_text(json.dumps(features))
    return open_annotation(path, CLASSES, FRAME)


LINE = [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("broken", "note"),
    [
        (feature([LINE]), "feature 1: left out (no area)"),
        (feature([]), "feature 1 ('Dr\u00fcse'): left out (no area)"),
        ({**feature([]), "geometry": None}, "feature 1: left out (no geometry)"),
        (
            {**feature([]), "geometry": {"type": "GeometryCollection", "geometries": []}},
            "feature 1: left out (no area)",
        ),
        (feature(LINE, "MultiPoint"), "feature 1: left out (MultiPoint without an area)"),
    ],
)
def test_a_feature_without_an_area_costs_only_itself(tmp_path, broken, note):
    source = opened(tmp_path, feature([RING]), broken)
    assert (source.raster(0, 0, 8, 8) == 1).all()
    assert source.notes == (note,)


def test_a_ring_of_two_points_and_third_coordinates_cost_nothing(tmp_path):
    other = [[0, 0, 5], [4, 0], [4, 4, 5], [0, 4], [0, 0]]
    source = opened(tmp_path, feature([[RING, LINE], [LINE]], "MultiPolygon", "stroma"), feature([other, LINE]))
    expected = np.zeros((8, 8), dtype=np.uint8)
    expected[:4, :4] = 1
    assert np.array_equal(source.raster(0, 0, 8, 8), expected)


def test_many_left_out_for_one_reason_are_one_note(tmp_path):
    source = opened(tmp_path, feature([RING]), *[feature([1, 1], "Point")] * 5)
    assert source.notes == ("feature 1 and 4 others: left out (Point without an area)",)
