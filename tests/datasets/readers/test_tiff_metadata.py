"""Metadata of TIFF files: resolution and vendor from tags, Aperio's description or OME-XML, and untrusted XML."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.readers.tiff import TiffReader
from tissuebench.errors import DataError


def write_svs(path, image, fields):
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        tile=(64, 64),
        compression="jpeg",
        metadata=None,
        description=f"Aperio Image Library v12.0.0\r\n{image.shape[1]}x{image.shape[0]} JPEG/RGB Q=70|{fields}",
    )
    return path


@pytest.mark.parametrize(
    ("fields", "mpp", "power"),
    [
        ("AppMag = 40|StripeWidth = 992|MPP = 0.2520|Left = 2", 0.252, "40"),
        ("AppMag=20|MPP=0.5", 0.5, "20"),
        ("AppMag = 20", None, "20"),
        ("MPP = 0.0000", None, None),
        ("MPP = n/a", None, None),
        ("NotMPP = 0.3", None, None),
    ],
)
def test_what_aperio_says(tmp_path, drawn, fields, mpp, power):
    reader = TiffReader(write_svs(tmp_path / "slide.svs", drawn.smooth(130, 120), fields))
    assert reader.mpp == mpp
    assert reader.metadata == {"vendor": "aperio"} | ({} if power is None else {"objective_power": power})


@pytest.mark.parametrize(
    ("x", "y", "unit", "mpp"),
    [
        (1e4 / 0.5, 1e4 / 0.5, "CENTIMETER", 0.5),
        (25_400 / 0.25, 25_400 / 0.25, "INCH", 0.25),
        (1e4 / 0.5, 1e4 / 0.503, "CENTIMETER", 0.5015),
        (72.0, 72.0, "INCH", None),
        (300.0, 300.0, "INCH", None),
        (28.3, 28.3, "CENTIMETER", None),
        (1.0, 1.0, "NONE", None),
    ],
)
def test_the_resolution_tags(tmp_path, drawn, x, y, unit, mpp):
    """A screen's or a printer's resolution is not taken for a microscope's."""
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, drawn.smooth(32, 32), photometric="rgb", resolution=(x, y), resolutionunit=unit)
    assert TiffReader(path).mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-4))


@pytest.mark.parametrize(
    ("said", "mpp"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, 0.5),
        ({"PhysicalSizeX": 0.00025, "PhysicalSizeXUnit": "mm"}, 0.25),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "pixel"}, None),
        ({"PhysicalSizeX": 500.0}, None),
        ({}, None),
    ],
)
def test_what_ome_xml_says(tmp_path, drawn, said, mpp):
    path = tmp_path / "slide.ome.tif"
    tifffile.imwrite(path, drawn.smooth(32, 32), photometric="rgb", metadata={"axes": "YXS", **said})
    assert TiffReader(path).mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize("said", ["ome", "tags"])
def test_pixels_that_are_not_square_are_refused(tmp_path, drawn, said):
    path = tmp_path / "slide.ome.tif"
    if said == "ome":
        options = {"metadata": {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}}
    else:
        options = {"resolution": (2e4, 4e4), "resolutionunit": "CENTIMETER", "ome": False}
    tifffile.imwrite(path, drawn.smooth(32, 32), photometric="rgb", **options)
    with pytest.raises(DataError, match=r"slide\.ome\.tif: pixels are not square \(0\.5 x 0\.25 µm\)"):
        open_slide(path, 1.0)


def test_xml_that_defines_entities_is_refused_before_it_is_parsed(tmp_path, drawn):
    path = tmp_path / "slide.ome.tif"
    bomb = '<?xml version="1.0"?><!DOCTYPE o [<!ENTITY a "aa">]><OME><Image><Pixels Type="&a;"/></Image></OME>'
    tifffile.imwrite(path, drawn.smooth(32, 32), photometric="rgb", description=bomb, metadata=None)
    with pytest.raises(DataError, match="defines entities"):
        TiffReader(path)


def test_files_that_ome_xml_names_are_not_opened(tmp_path, drawn):
    """The other file holds a plane of the image: without it the channel has no page."""
    image = drawn.noise(40, 30)
    uuids = [f"urn:uuid:0000000{number}-0000-0000-0000-000000000000" for number in range(3)]
    planes = "".join(
        f'<TiffData FirstC="{c}" PlaneCount="1" IFD="0"><UUID FileName="part{c}.ome.tif">{uuids[c]}</UUID></TiffData>'
        for c in range(3)
    )
    for c in range(3):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuids[c]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="30" '
            f'SizeY="40" SizeC="3" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
        )
        path = tmp_path / f"part{c}.ome.tif"
        tifffile.imwrite(path, image[..., c], photometric="minisblack", description=xml, metadata=None)
    with tifffile.TiffFile(tmp_path / "part0.ome.tif") as followed:
        assert np.array_equal(followed.series[0].asarray(), image.transpose(2, 0, 1))  # the test's files are right
    with pytest.raises(DataError, match=r"part0\.ome\.tif"):
        TiffReader(tmp_path / "part0.ome.tif")
