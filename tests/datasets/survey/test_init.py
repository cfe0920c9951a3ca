"""A manifest and a description proposed for a folder of slides: what is found, what is told, and nothing overwritten."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.datasets.ingest.folders import square, tissue_on_glass, write_geojson, write_tiff
from tissuebench.datasets.catalog.folder import recipe
from tissuebench.datasets.ingest.dataset import find_dataset
from tissuebench.datasets.ingest.ingest import IngestOptions, ensure_store
from tissuebench.datasets.manifest import ManifestRow, read_manifest
from tissuebench.datasets.survey.init import start_dataset
from tissuebench.datasets.survey.pairing import pair, proposed_ids
from tissuebench.errors import DataError


def colored(name, color, *box):
    feature = square(name, *box)
    feature["properties"]["classification"]["color"] = color
    return feature


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "liver 2024"
    (root / "scans").mkdir(parents=True)
    (root / "qupath").mkdir()
    for number, name in enumerate(("Fall 1", "Fall 10", "Präparat 3")):
        write_tiff(root / "scans" / f"{name}.tif", tissue_on_glass(number), mpp=0.5)
    write_tiff(root / "scans" / "plain.tif", tissue_on_glass(7), mpp=None)
    write_geojson(
        root / "qupath" / "Fall 1.tif - Series 0.geojson",
        colored("Tumor", [200, 0, 0], 80, 80, 200, 200),
        colored("Stroma", [0, 200, 0], 64, 64, 250, 250),
        square("Ignore*", 0, 0, 9, 9),
    )
    write_geojson(root / "qupath" / "Fall 10.geojson", square("tumor ", 90, 90, 120, 120), square(None, 0, 0, 200, 200))
    for beside in ("._Fall 1.tif", ".DS_Store", "Fall 1_thumbnail.png"):
        (root / "scans" / beside).write_bytes(b"not a slide")
    return root


def rows_of(root):
    return {row.slide_id: row for row in read_manifest(root / "manifest.csv", recipe(root).class_map)}


def test_what_is_written_is_read_as_it_was_meant(folder):
    started = start_dataset(folder)
    described, rows = recipe(folder), rows_of(folder)
    assert described.name == "liver_2024"
    assert described.mpp == 0.5
    assert described.class_map.names == ("Stroma", "Tumor")  # the larger first, so that the smaller is drawn over it
    assert described.class_map.colors == ((0, 200, 0), (200, 0, 0))
    assert described.class_names == {"Ignore*": None, "tumor": "Tumor"}
    assert list(rows) == ["Fall_1", "Fall_10", "Praeparat_3", "plain"]
    assert all(isinstance(row, ManifestRow) for row in rows.values())
    assert rows["Fall_1"].annotation == folder / "qupath" / "Fall 1.tif - Series 0.geojson"
    assert rows["Fall_10"].annotation == folder / "qupath" / "Fall 10.geojson"
    assert rows["plain"].annotation is None
    assert started.written[0].endswith("manifest.csv: 4 slides, 2 with annotations")
    assert "mpp: plain.tif do not say their resolution; fill the column mpp" in started.to_check
    assert "1 annotated area has no class and will be left out" in started.to_check


def test_the_proposal_goes_in_without_an_edit_but_for_what_was_told(folder, tmp_path):
    (folder / "scans" / "plain.tif").unlink()
    start_dataset(folder)
    made = ensure_store(
        find_dataset("folder", folder, tmp_path), tmp_path, folder, lambda *_: None, IngestOptions(workers=1)
    )
    assert not made.quarantine
    assert sorted(made.store.slides) == ["Fall_1", "Fall_10", "Praeparat_3"]
    assert made.store.withheld.class_pixels("Fall_1")[1] == 120**2


def test_typed_again_it_adds_what_is_new_and_overwrites_nothing(folder):
    start_dataset(folder)
    manifest, description = folder / "manifest.csv", folder / "dataset.yaml"
    manifest.write_text(manifest.read_text().replace("Fall_10,Fall_10", "Fall_10,P10").rstrip("\n"))
    description.write_text(description.read_text() + "licence: ours\n")
    before = manifest.read_text(), description.read_text()
    again = start_dataset(folder)
    assert (manifest.read_text(), description.read_text()) == before
    assert again.written[0].endswith("kept as it is; every slide has its row")
    write_tiff(folder / "scans" / "Fall 11.tif", tissue_on_glass(11), mpp=0.5)
    write_geojson(folder / "qupath" / "Fall 11.geojson", square("Necrosis", 80, 80, 200, 200))
    added = start_dataset(folder)
    assert manifest.read_text().startswith(before[0] + "\n")
    assert description.read_text() == before[1]
    assert rows_of(folder)["Fall_11"].annotation == folder / "qupath" / "Fall 11.geojson"
    assert rows_of(folder)["Fall_10"].patient_id == "P10"
    assert any("does not know Necrosis, which annotations name" in line for line in added.to_check)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_rows_are_added_as_the_manifest_is_written(folder, encoding):
    start_dataset(folder)
    manifest = folder / "manifest.csv"
    manifest.write_bytes(manifest.read_text().replace(",", ";").encode(encoding))
    write_tiff(folder / "scans" / "später.tif", tissue_on_glass(11), mpp=0.5)
    start_dataset(folder)
    assert rows_of(folder)["spaeter"].image == folder / "scans" / "später.tif"
    assert len(rows_of(folder)) == 5


def test_the_groups_own_table_fills_patients_and_diagnoses(folder):
    table = folder / "export.csv"
    table.write_text(
        "Fallnr;Slide;Patient;Diagnosis\n1;scans\\Fall 1.tif;Müller;HCC\n2;fall 10;P10;CCC\n3;Fall 99;P9;CCC\n"
    )
    started = start_dataset(folder, table)
    rows = rows_of(folder)
    assert (rows["Fall_1"].patient_id, rows["Fall_1"].diagnosis) == ("Mueller", ("HCC",))
    assert (rows["Fall_10"].patient_id, rows["Fall_10"].diagnosis) == ("P10", ("CCC",))
    assert rows["Praeparat_3"].diagnosis == ()
    assert dict(recipe(folder).class_map.diagnoses) == {"CCC": (), "HCC": ()}
    assert "table: no slide has the name of Fall 99" in started.to_check
    assert "table: has no row for Präparat 3.tif, plain.tif" in started.to_check


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient;diagnosis\nP1;A\n", "no column names the slides; call it 'slide'"),
        ("slide;age\nFall 1;7\n", "no column of patients, diagnoses or parts"),
        ("slide;patient\nFall 1;7\nFall 1.tif;8\n", "row 3: slide 'Fall 1.tif' has a row already"),
    ],
)
def test_a_table_that_says_nothing_is_refused_before_anything_is_written(folder, text, message):
    (folder / "export.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        start_dataset(folder, folder / "export.csv")
    assert not (folder / "manifest.csv").exists()


def test_masks_are_paired_and_their_values_listed(tmp_path):
    for name in ("A", "B"):
        Image.fromarray(tissue_on_glass(ord(name))).save(tmp_path / f"{name}.png")
        mask = np.zeros((512, 512), np.uint8)
        mask[80:200, 80:200] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
    start_dataset(tmp_path)
    described = recipe(tmp_path)
    assert described.mask_values == {0: "value 0", 255: "value 255"}
    assert described.mpp is None
    assert [row.annotation.name for row in rows_of(tmp_path).values()] == ["A_mask.png", "B_mask.png"]


def test_an_annotation_of_two_slides_or_two_of_one_are_told(folder):
    shutil.copyfile(folder / "qupath" / "Fall 10.geojson", folder / "Fall 10_old.geojson")
    (folder / "Case 7.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    started = start_dataset(folder)
    assert rows_of(folder)["Fall_10"].annotation is None
    told = " ".join(started.to_check)
    assert "annotation: Fall 10.tif has several, Fall 10_old.geojson, qupath/Fall 10.geojson" in told
    assert "annotation: no slide has the name of Case 7.geojson" in told


def test_a_name_belongs_to_the_longest_slide_that_it_begins_with(tmp_path):
    slides = [tmp_path / name for name in ("S1.svs", "S1_2.svs", "a/T.tif", "b/T.tif")]
    annotations = [tmp_path / name for name in ("S1.svs.geojson", "S1_2-mask.png", "S10.geojson", "b/ann/T.xml")]
    pairs = pair(slides, annotations)
    assert pairs.of_slide == {slides[0]: annotations[0], slides[1]: annotations[1], slides[3]: annotations[3]}
    assert pairs.left == (annotations[2],)
    ids = proposed_ids(slides, tmp_path, ["S1"])
    assert list(ids.values()) == ["S1-2", "S1_2", "a-T", "b-T"]


def test_names_that_a_manifest_reads_as_none_are_not_proposed(tmp_path):
    slides = [tmp_path / name for name in ("NA.tif", "none.svs", "???.tif", "a.tif")]
    assert list(proposed_ids(slides, tmp_path).values()) == ["slide_NA", "slide_none", "slide", "a"]


def test_without_annotations_the_description_asks_for_classes(folder):
    shutil.rmtree(folder / "qupath")
    start_dataset(folder)
    with pytest.raises(DataError, match=r"key 'classes': .*names no class; write each with its colour"):
        recipe(folder)


def test_an_empty_folder_and_none(tmp_path):
    with pytest.raises(DataError, match="no slide is found below it"):
        start_dataset(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        start_dataset(tmp_path / "x")
