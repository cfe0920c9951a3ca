"""Slides of which only a part was scanned: whose coordinates an annotation has, and that no pixel moves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.datasets.readers import Bounds
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("stroma", "tumour"), ((1, 1, 1), (2, 2, 2)))
LEVEL0 = (60, 90)
BOUNDS = Bounds(y=8, x=20, height=40, width=50)
FRAME = Frame(LEVEL0, LEVEL0, 1.0, BOUNDS)
BOX = (3, 5, 13, 25)  # y0, x0, y1, x1
HERE, SHIFTED = (slice(3, 13), slice(5, 25)), (slice(11, 21), slice(25, 45))
NOTE = "coordinates are those of the scanned part, which begins at x 20, y 8 of the slide (50 x 40 px)"


def ring():
    y0, x0, y1, x1 = BOX
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def geojson(folder, **own):
    path = folder / "slide.geojson"
    drawn = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring()]},
        "properties": {"classification": {"name": "tumour"}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", **own, "features": [drawn]}))
    return path


def asap(folder):
    at = "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}" />' for order, (x, y) in enumerate(ring()[:4]))
    path = folder / "asap.xml"
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="tumour">'
        f"<Coordinates>{at}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    return path


def aperio(folder):
    at = "".join(f'<Vertex X="{x}" Y="{y}" />' for x, y in ring()[:4])
    path = folder / "aperio.xml"
    path.write_text(
        f'<Annotations><Annotation Name="tumour"><Regions><Region Type="0"><Vertices>{at}</Vertices></Region></Regions>'
        "</Annotation></Annotations>"
    )
    return path


def drawn_at(place):
    expected = np.full(LEVEL0, 255, dtype=np.uint8)
    expected[place] = 1
    return expected


@pytest.mark.parametrize(
    ("write", "asked", "place"),
    [
        (geojson, "auto", SHIFTED),
        (geojson, "slide", HERE),
        (geojson, "bounds", SHIFTED),
        (asap, "auto", HERE),
        (asap, "bounds", SHIFTED),
        (aperio, "auto", HERE),
        (aperio, "bounds", SHIFTED),
    ],
)
def test_polygons_are_in_the_frame_of_their_program_or_the_one_asked_for(tmp_path, write, asked, place):
    source = open_annotation(write(tmp_path), CLASSES, FRAME, coordinates=asked)
    assert np.array_equal(source.raster(0, 0, *LEVEL0), drawn_at(place))
    assert source.offset == ((8, 20) if place == SHIFTED else (0, 0))
    assert source.notes == ((NOTE,) if place == SHIFTED else ())


@pytest.mark.parametrize("asked", ["auto", "slide", "bounds"])
@pytest.mark.parametrize("write", [geojson, asap, aperio])
def test_without_bounds_every_frame_is_the_slide(tmp_path, write, asked):
    source = open_annotation(write(tmp_path), CLASSES, Frame(LEVEL0, LEVEL0, 1.0), coordinates=asked)
    assert np.array_equal(source.raster(0, 0, *LEVEL0), drawn_at(HERE))
    assert (source.offset, source.notes) == ((0, 0), ())


@pytest.mark.parametrize(
    ("own", "place"), [({"frame": "slide"}, HERE), ({"frame": "bounds"}, SHIFTED), ({"scale": 1.0}, HERE)]
)
def test_a_file_that_this_suite_wrote_says_its_frame(tmp_path, own, place):
    source = open_annotation(geojson(tmp_path, tissuebench=own), CLASSES, FRAME)
    assert np.array_equal(source.raster(0, 0, *LEVEL0), drawn_at(place))


def test_a_file_that_says_another_frame_than_the_manifest_is_refused(tmp_path):
    path = geojson(tmp_path, tissuebench={"frame": "slide"})
    with pytest.raises(DataError, match=r"says that its frame is 'slide', but .* says 'bounds'"):
        open_annotation(path, CLASSES, FRAME, coordinates="bounds")
    open_annotation(path, CLASSES, FRAME, coordinates="slide")
    open_annotation(path, CLASSES, Frame(LEVEL0, LEVEL0, 1.0), coordinates="bounds")  # without bounds it is all one
    with pytest.raises(DataError, match="member 'tissuebench': unknown frame 'crop'"):
        open_annotation(geojson(tmp_path, tissuebench={"frame": "crop"}), CLASSES, FRAME)


def test_a_prediction_covers_the_slide_beyond_its_scanned_part(tmp_path):
    path = geojson(tmp_path, tissuebench={"frame": "bounds"})
    drawn = json.loads(path.read_text())
    drawn["features"][0]["geometry"]["coordinates"] = [[[-20, -8], [70, -8], [70, 52], [-20, 52], [-20, -8]]]
    path.write_text(json.dumps(drawn))
    source = open_annotation(path, CLASSES, FRAME)
    assert (source.raster(0, 0, *LEVEL0) == 1).all()
    assert source.notes == (NOTE,)
    drawn["features"][0]["geometry"]["coordinates"] = [[[-2, -2], [52, -2], [52, 42], [-2, 42], [-2, -2]]]
    path.write_text(json.dumps(drawn["features"]))  # without the member, as QuPath would export it
    clipped = open_annotation(path, CLASSES, FRAME, coordinates="bounds").raster(0, 0, *LEVEL0)
    assert np.array_equal(clipped, drawn_at((slice(8, 48), slice(20, 70))))


def test_the_edge_of_the_scanned_part_is_the_edge_of_the_drawing(tmp_path):
    frame = Frame(LEVEL0, LEVEL0, 1.0, Bounds(8, 20, 9, 50))
    source = open_annotation(geojson(tmp_path), CLASSES, frame)
    assert source.notes[1:] == ("feature 0 ('tumour') reaches 4 px beyond the slide: clipped",)
    assert np.array_equal(source.raster(0, 0, *LEVEL0), drawn_at((slice(11, 17), slice(25, 45))))
    with pytest.raises(DataError, match=r"the scanned part is 4 x 9 px.*whole slide \(frame: slide\)"):
        open_annotation(geojson(tmp_path), CLASSES, Frame(LEVEL0, LEVEL0, 1.0, Bounds(8, 20, 9, 4)))


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.7])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_mask_of_the_scanned_part_is_placed_there(tmp_path, scale, factor):
    part = np.random.default_rng(2).integers(0, 2, (BOUNDS.height // factor, BOUNDS.width // factor), dtype=np.uint8)
    Image.fromarray(part).save(tmp_path / "mask.png")
    full = np.full(LEVEL0, 255, dtype=np.uint8)
    full[8:48, 20:70] = part.repeat(factor, axis=0).repeat(factor, axis=1)
    size = tuple(round(side / scale) for side in LEVEL0)
    at = [
        np.minimum(np.floor((np.arange(n) + 0.5) * scale).astype(int), side - 1)
        for n, side in zip(size, LEVEL0, strict=True)
    ]
    source = open_annotation(tmp_path / "mask.png", CLASSES, Frame(LEVEL0, size, scale, BOUNDS))
    assert np.array_equal(source.raster(0, 0, *size), full[np.ix_(*at)])
    assert np.array_equal(source.raster(5, 3, 9, 8), full[np.ix_(*at)][5:14, 3:11])
    assert source.offset == (8, 20)
    assert source.notes == (NOTE,)


def test_a_mask_goes_by_its_size_and_by_what_is_asked_for(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.zeros(LEVEL0, dtype=np.uint8)).save(path)
    assert open_annotation(path, CLASSES, FRAME).offset == (0, 0)
    with pytest.raises(DataError, match=r"mask is 90 x 60 px but its image is 50 x 40 px"):
        open_annotation(path, CLASSES, FRAME, coordinates="bounds")
    Image.fromarray(np.zeros(BOUNDS[2:], dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"mask is 50 x 40 px but its image is 90 x 60 px; save"):
        open_annotation(path, CLASSES, FRAME, coordinates="slide")
    Image.fromarray(np.zeros((7, 13), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match="its image is 90 x 60 px and its scanned part 50 x 40 px"):
        open_annotation(path, CLASSES, FRAME)


def test_a_mask_that_fits_both_needs_a_word(tmp_path):
    """A third of the slide has the size of half of the part."""
    frame = Frame((60, 90), (60, 90), 1.0, Bounds(0, 10, 40, 60))
    Image.fromarray(np.zeros((20, 30), dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"fits the slide and its scanned part; .*column 'frame'"):
        open_annotation(tmp_path / "mask.png", CLASSES, frame)
    assert open_annotation(tmp_path / "mask.png", CLASSES, frame, coordinates="slide").offset == (0, 0)
    assert open_annotation(tmp_path / "mask.png", CLASSES, frame, coordinates="bounds").offset == (0, 10)
