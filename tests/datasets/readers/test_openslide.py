"""What OpenSlide's properties say beyond pixels: the scanned part of a slide."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile

from tests.datasets.readers.scns import write_scn
from tissuebench.datasets.readers import Bounds, open_slide
from tissuebench.datasets.readers.openslide import scanned_part
from tissuebench.datasets.readers.reader import Level
from tissuebench.errors import DataError

LEVEL0 = Level(1000, 2000, 1.0)


def said(*values):
    names = [f"openslide.bounds-{side}" for side in ("y", "x", "height", "width")]
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


@pytest.mark.parametrize(
    ("values", "bounds", "note"),
    [
        ((None,) * 4, None, ""),
        (("0", "0", "1000", "2000"), None, ""),
        (("100", "200", "300", "400"), Bounds(100, 200, 300, 400), ""),
        (("0", "0", "1000", "1999"), Bounds(0, 0, 1000, 1999), ""),
        (("100", "200", "901", "400"), Bounds(100, 200, 900, 400), "extend beyond the slide (y 100, x 200, height 901"),
        (("0", "0", "1001", "2001"), None, "extend beyond the slide"),
        (("-1", "0", "300", "400"), None, "no part of the slide"),
        (("1000", "0", "300", "400"), None, "no part of the slide"),
        (("10", "10", "0", "400"), None, "no part of the slide"),
        (("10", "10", None, "400"), None, "no part of the slide (y 10, x 10, height None, width 400)"),
        (("10", "ten", "30", "400"), None, "no part of the slide"),
    ],
)
def test_the_scanned_part_of_a_slide(values, bounds, note):
    found, notes = scanned_part(said(*values), LEVEL0)
    assert found == bounds
    assert len(notes) == bool(note)
    assert note in "".join(notes)


@pytest.fixture
def scn(tmp_path, drawn):
    pytest.importorskip("openslide")
    part = drawn.noise(256, 384)
    return write_scn(tmp_path / "slide.scn", part, 300, 200, (1024, 768)), part


def test_a_leica_slide_has_the_bounds_of_its_scanned_part(scn):
    path, part = scn
    with open_slide(path, None) as slide:
        assert (slide.level0_size, slide.bounds, slide.notes) == ((1024, 768), Bounds(300, 200, 256, 384), ())
        assert slide.mpp == pytest.approx(0.5)
        assert np.array_equal(slide.region(300, 200, 256, 384), part)
        assert (slide.region(0, 0, 300, 768) == 255).all()


def test_a_slide_that_only_openslide_puts_together_is_refused_as_a_tiff(scn, tmp_path):
    renamed = tmp_path / "leica.tif"
    scn[0].rename(renamed)
    with pytest.raises(DataError, match=r"leica\.tif: is a Leica SCN slide; name the reader 'openslide'"):
        open_slide(renamed, None)
    with open_slide(renamed, None, reader="openslide") as slide:
        assert slide.bounds == Bounds(300, 200, 256, 384)
    ventana, xmp = tmp_path / "ventana.tif", b"<iScan/>"
    options = {"software": "ScanOutputManager 1.1", "extratags": [(700, "B", len(xmp), xmp, True)], "metadata": None}
    tifffile.imwrite(ventana, scn[1], photometric="rgb", tile=(64, 64), **options)
    with pytest.raises(DataError, match=r"ventana\.tif: is a Ventana slide; name the reader 'openslide'"):
        open_slide(ventana, None)


@pytest.fixture
def dicom(shared_data, tmp_path):
    case = shared_data.parent / "cases" / "17_dicom_series" / "S1"
    if not case.is_dir():
        pytest.skip("no DICOM slide in the shared folder")
    return shutil.copytree(case, tmp_path / "S1")


def test_a_dicom_slide_by_any_of_its_names(dicom):
    with open_slide(dicom / "level0.dcm", 1.0) as slide:
        pixels = slide.region(0, 0, slide.height, slide.width)
        assert slide.notes == ()
    assert pixels.shape == (512, 512, 3)
    for path, notes in ((dicom, 0), (dicom / "label.dcm", 1), (dicom / "overview.dcm", 1), (dicom / "level1.dcm", 0)):
        with open_slide(path, 1.0) as slide:
            assert np.array_equal(slide.region(0, 0, slide.height, slide.width), pixels), path
            assert len(slide.notes) == notes
    (dicom / "level0.dcm").unlink()
    (dicom / "level1.dcm").unlink()
    for path in (dicom, dicom / "label.dcm"):
        with pytest.raises(DataError, match="DICOM slide"):
            open_slide(path, 1.0)
