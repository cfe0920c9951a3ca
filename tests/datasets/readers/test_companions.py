"""Files of one slide: found without a library, never outside the slide's folder."""

from __future__ import annotations

import struct

import pytest

from tests.datasets.readers.dicoms import write_dicom
from tissuebench.datasets.readers.companions import companions
from tissuebench.datasets.readers.dicom import DicomHeader, dicom_header, dicom_slide
from tissuebench.errors import DataError


@pytest.fixture
def series(tmp_path):
    """A slide of two levels with its label and overview, and a second slide, in one folder."""
    for name, uid, kind, side in (
        ("level0", "1.2.3", "VOLUME", 512),
        ("level1", "1.2.3", "VOLUME", 128),
        ("label", "1.2.3", "LABEL", 600),
        ("overview", "1.2.3", "OVERVIEW", 900),
        ("other", "1.2.4", "VOLUME", 700),
    ):
        write_dicom(tmp_path / f"{name}.dcm", uid, kind, side)
    (tmp_path / "notes.dcm").write_text("no DICOM at all")
    return tmp_path


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("nested", ["defined", "undefined", "none"])
def test_a_header_is_read_past_sequences(tmp_path, explicit, nested):
    path = write_dicom(tmp_path / "a.dcm", "1.22.333", "VOLUME", 70_000, explicit=explicit, nested=nested)
    assert dicom_header(path) == DicomHeader("1.22.333", "VOLUME", 70_000, 70_001)


def test_what_is_no_dicom_has_no_header(tmp_path):
    raw = write_dicom(tmp_path / "a.dcm", "1.2", "VOLUME", 512, nested="undefined").read_bytes()
    assert dicom_header(tmp_path / "missing.dcm") is None
    for cut in range(len(raw)):
        (tmp_path / "cut.dcm").write_bytes(raw[:cut])
        header = dicom_header(tmp_path / "cut.dcm")
        assert header is None or isinstance(header, DicomHeader)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    deep = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    (tmp_path / "deep.dcm").write_bytes(bytes(128) + b"DICM" + (deep + item) * 3000)
    assert dicom_header(tmp_path / "deep.dcm") is None


def test_files_of_a_dicom_series(series):
    names = [one.name for one in companions(series / "level0.dcm")]
    assert names == ["label.dcm", "level1.dcm", "overview.dcm"]
    assert series / "level0.dcm" in companions(series / "label.dcm")
    assert companions(series / "other.dcm") == companions(series / "notes.dcm") == ()
    assert companions(series / "missing.dcm") == ()


def test_any_file_of_a_dicom_slide_leads_to_its_finest_level(series):
    assert dicom_slide(series / "level0.dcm") == (series / "level0.dcm", ())
    found, notes = dicom_slide(series / "label.dcm")
    assert (found.name, notes) == (
        "level0.dcm",
        ("label.dcm is the label of the slide; its level level0.dcm was read",),
    )
    with pytest.raises(
        DataError, match=r"holds 2 DICOM slides; name one file of the slide instead \(level0\.dcm, other"
    ):
        dicom_slide(series)
    (series / "other.dcm").unlink()
    assert dicom_slide(series) == (series / "level0.dcm", ())
    assert [one.name for one in companions(series)] == ["label.dcm", "level0.dcm", "level1.dcm", "overview.dcm"]
    for level in ("level0", "level1"):
        (series / f"{level}.dcm").unlink()
    with pytest.raises(DataError, match=r"label\.dcm: is the label of a DICOM slide whose levels are not beside it"):
        dicom_slide(series / "label.dcm")
    with pytest.raises(DataError, match="is a folder, without a DICOM slide in it"):
        dicom_slide(series)


def test_mirax_keeps_its_pixels_in_a_folder(tmp_path):
    (tmp_path / "a.mrxs").write_bytes(b"x")
    assert companions(tmp_path / "a.mrxs") == ()
    (tmp_path / "a").mkdir()
    for name in ("Slidedat.ini", "Data0000.dat"):
        (tmp_path / "a" / name).write_bytes(b"x")
    assert [one.name for one in companions(tmp_path / "a.mrxs")] == ["Data0000.dat", "Slidedat.ini"]


@pytest.mark.parametrize("suffix", ["vms", "vmu"])
def test_hamamatsu_names_its_files_and_only_those_beside_it_are_followed(tmp_path, suffix):
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("a.jpg", "a(1,0).jpg", "a_map2.jpg", "a.opt", "b.jpg"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    index = folder / f"a.{suffix}"
    index.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\nImageFile(1,0)=a(1,0).jpg\nMapFile=a_map2.jpg\r\n"
        f"OptimisationFile=a.opt\nMacroImage=../secret.jpg\nOther=gone.jpg\nSelf=a.{suffix}\nDot=.\nNone=\n"
    )
    assert [one.name for one in companions(index)] == ["a(1,0).jpg", "a.jpg", "a.opt", "a_map2.jpg"]


def test_a_slide_of_one_file_has_no_companions(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"x")
    (tmp_path / "b.zarr").mkdir()
    assert companions(tmp_path / "a.tif") == companions(tmp_path / "b.zarr") == companions(tmp_path / "c.vms") == ()
