"""Files next to the slides of a folder: a forgotten slide is told, all else is at most counted."""

from __future__ import annotations

import pytest

from tests.datasets.readers.dicoms import write_dicom
from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.manifest import BadRow

DESCRIPTION = "name: mine\nclasses: [glass, tumour]\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dataset.yaml").write_text(DESCRIPTION)
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "S1.tif").touch()
    (tmp_path / "manifest.csv").write_text("slide_id,patient_id,image\nS1,P1,slides/S1.tif\n")
    return tmp_path


def told(folder):
    """Names of the files that are reported, and the notes."""
    recipe = find_recipe("folder", folder)
    assert recipe.notes is not None
    found = [row for row in recipe.rows(folder) if isinstance(row, BadRow)]
    return [row.reason.split(":")[0].rpartition("/")[2] for row in found], recipe.notes(folder)


@pytest.mark.parametrize(
    "name",
    [
        "._S1.tif", ".thumbs.png", "~$S1.tif", "S1_label.jpg", "S1_thumbnail.png", "S1.tif_preview.png", "S1-macro.jpeg",
        "S1 overview.png", "S1_Thumb.PNG", "thumbnail.jpg", "S1_mask.png", "S1_labels.tif", "S1.mask_ds4.png", "S1.jpg",
        "S1.tif.png", "S1_segmentation2.bmp", "S1_slide-label.jpg",
    ],
)  # fmt: skip
def test_what_scanners_and_viewers_leave_is_counted_and_not_reported(folder, name):
    (folder / "slides" / name).touch()
    reported, notes = told(folder)
    assert reported == []
    assert notes == (f"{folder}: 1 file that is no slide lies next to the slides ({name})",)


@pytest.mark.parametrize("name", ["S1.tif.part", "S2.svs.crdownload", "project.qpproj", "S1.geojson", "Thumbs.db"])
def test_what_is_no_slide_by_its_suffix_is_not_even_counted(folder, name):
    (folder / "slides" / name).touch()
    assert told(folder) == ([], ())


@pytest.mark.parametrize("name", ["S2.tif", "S1_2.tif", "S2.svs", "S1b.png", "labelled.tif", "macrophages.tif"])
def test_a_slide_that_no_row_names_is_told(folder, name):
    (folder / "slides" / name).touch()
    assert told(folder) == ([name], ())


def test_files_that_a_row_names_in_another_way_are_known(folder):
    (folder / "slides" / "S2.tif").touch()
    (folder / "slides" / "S3.png").touch()
    (folder / "manifest.csv").write_text(
        f"slide_id,patient_id,image,annotation\nS1,P1,slides/S1.tif,\nS2,P2,./slides/../slides/S2.tif,{folder}/slides/S3.png\n"
    )
    assert told(folder) == ([], ())


def test_a_file_that_a_row_names_in_another_case_is_told_once(folder):
    (folder / "slides" / "S2.tif").touch()
    with (folder / "manifest.csv").open("a") as file:
        file.write("S2,P2,Slides\\s2.TIF\n")
    (reason,) = [row.reason for row in find_recipe("folder", folder).rows(folder) if isinstance(row, BadRow)]
    assert reason.endswith("row 3: image 'Slides\\\\s2.TIF': no such file; did you mean 'slides/S2.tif'?")


def test_many_are_counted_in_one_note(folder):
    for number in range(5):
        (folder / "slides" / f"S1_thumb{number}.png").touch()
    assert told(folder)[1] == (
        f"{folder}: 5 files that are no slides lie next to the slides (S1_thumb0.png, S1_thumb1.png, S1_thumb2.png, ...)",
    )


def test_the_other_files_of_a_dicom_slide_belong_to_it(folder):
    slide = folder / "D1"
    slide.mkdir()
    for number, kind in enumerate(("VOLUME", "VOLUME", "LABEL")):
        write_dicom(slide / f"level{number}.dcm", "1.2.3", kind, 64 >> number)
    write_dicom(slide / "another.dcm", "1.2.4", "VOLUME", 64)
    with (folder / "manifest.csv").open("a") as file:
        file.write("D1,P2,D1/level0.dcm\n")
    assert told(folder) == (["another.dcm"], ())
