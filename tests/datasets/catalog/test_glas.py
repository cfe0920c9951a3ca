"""GlaS on a miniature of the published layout: names, columns and blanks as published, images of 4 x 3 px."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
from PIL import Image

from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.splits import official_split
from tissuebench.errors import DataError

HEADER = ("name", "patient ID", " grade (GlaS)", " grade (Sirinukunwattana et al. 2015)")
IMAGES = {
    "train_1": "2",
    "train_2": "5",
    "train_10": "2",
    "train_4": "3",
    "testA_1": "4",
    "testA_2": "3",
    "testB_3": "2",
    "testB_4": "5",
}


def write_glas(folder, images=IMAGES, newline="\n", header=HEADER):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(header)] + [f"{name},{patient}, benign, adenomatous" for name, patient in images.items()]
    (folder / "Grade.csv").write_bytes((newline.join(lines) + newline).encode())
    for name in images:
        Image.fromarray(np.full((3, 4, 3), 200, np.uint8)).save(folder / f"{name}.bmp")
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(folder / f"{name}_anno.bmp")
    return folder


def split_of(recipe, rows):
    return official_split(recipe.split_name, ((row.patient_id, row.split) for row in rows))


def refused(recipe, root):
    with pytest.raises(DataError) as raised:
        recipe.rows(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("below", ["", "Warwick QU Dataset (Released 2016_07_08)", "zip/Warwick QU Dataset"])
def test_the_published_folder_is_read_wherever_it_was_unpacked(tmp_path, newline, below):
    folder = write_glas(tmp_path / below, newline=newline)
    recipe = find_recipe("glas")
    rows = {row.slide_id: row for row in recipe.rows(tmp_path)}
    assert set(rows) == set(IMAGES)
    row = rows["testA_1"]
    assert (row.patient_id, row.mpp, row.tags, row.diagnosis) == ("4", 0.62005, None, ())
    assert row.image == folder / "testA_1.bmp"
    assert row.annotation == folder / "testA_1_anno.bmp"
    assert recipe.instance_class == "gland"
    assert recipe.class_map.names[0] == "background"


def test_blanks_around_cells_and_shadows_of_a_mac_do_no_harm(tmp_path):
    write_glas(tmp_path / "inside", {"train_1": " 4 "}, header=("name", " patient ID "))
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "Grade.csv").write_text("x")
    assert [row.patient_id for row in find_recipe("glas").rows(tmp_path)] == ["4"]


def test_the_default_split_deals_patients_and_not_the_published_parts(tmp_path):
    write_glas(tmp_path)
    recipe = find_recipe("glas")
    rows = recipe.rows(tmp_path)
    split = split_of(recipe, rows)
    assert split.name == "glas-patient"
    assert dict(split.parts) == {"train": ("4", "5"), "val": ("3",), "test": ("2",)}
    assert {row.slide_id for row in rows if row.split == "test"} == {"train_1", "train_10", "testB_3"}


def test_every_patient_of_the_16_has_one_part(tmp_path):
    write_glas(tmp_path, {f"train_{number}": str(number) for number in range(1, 17)})
    recipe = find_recipe("glas")
    split = split_of(recipe, recipe.rows(tmp_path))
    assert [len(split.patients(part)) for part in ("train", "val", "test")] == [9, 2, 5]


def test_the_published_parts_leak_and_are_a_split_of_images_that_says_so(tmp_path):
    write_glas(tmp_path)
    by_patient = {name: IMAGES[name] for name in IMAGES}
    recipe = find_recipe("glas_official")
    rows = recipe.rows(tmp_path)
    split = split_of(recipe, rows)
    assert split.name == "glas-official-leaky"
    assert split.patients("val") == ()
    assert set(split.patients("test")) == {name for name in IMAGES if name.startswith("test")}
    assert set(split.patients("train")) == {name for name in IMAGES if name.startswith("train")}
    with pytest.raises(DataError, match="a patient belongs to one part"):
        official_split("by patient", ((by_patient[row.slide_id], row.split) for row in rows))


@pytest.mark.parametrize("recipe_name", ["glas", "glas_official"])
@pytest.mark.parametrize("lost", ["train_10.bmp", "train_10_anno.bmp"])
def test_a_missing_file_is_named(tmp_path, recipe_name, lost):
    write_glas(tmp_path)
    (tmp_path / lost).unlink()
    assert str(tmp_path / lost) in refused(find_recipe(recipe_name), tmp_path)


def test_an_image_without_a_row_is_not_dropped_in_silence(tmp_path):
    write_glas(tmp_path)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "train_99.bmp")
    assert "train_99.bmp: has no row" in refused(find_recipe("glas"), tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"train_1": "17"}, "patient '17' is not one"),
        ({"../train_1": "1"}, "row 2: name '../train_1' cannot be a file name"),
        ({"train_1": ""}, "row 2: patient ID '' cannot be"),
    ],
)
def test_unusable_rows_are_named(tmp_path, images, message):
    root = tmp_path / "inside"
    write_glas(root, images)
    assert message in refused(find_recipe("glas"), root)


def test_a_name_given_twice_is_refused(tmp_path):
    write_glas(tmp_path)
    with (tmp_path / "Grade.csv").open("a", newline="") as handle:
        csv.writer(handle).writerow(["train_1", "5", "benign", "healthy"])
    assert "row 10: name 'train_1' appears twice" in refused(find_recipe("glas"), tmp_path)


def test_a_short_row_a_lost_column_and_another_folder_are_refused(tmp_path):
    assert "holds no GlaS: 'Grade.csv' is not found below it" in refused(find_recipe("glas"), tmp_path)
    write_glas(tmp_path / "a", header=("name", "patient", "grade"))
    assert re.search("column 'patient ID' is missing", refused(find_recipe("glas"), tmp_path))
    write_glas(tmp_path / "b")
    assert "found two copies of" in refused(find_recipe("glas"), tmp_path)
    (tmp_path / "b" / "Grade.csv").write_text(",".join(HEADER) + "\ntrain_1\n")
    assert "row 2: has 1 cells and needs 2" in refused(find_recipe("glas"), tmp_path / "b")


def test_an_unknown_part_of_the_published_split_is_refused(tmp_path):
    write_glas(tmp_path, {"testC_1": "1"})
    assert "'testC_1' begins with none of train, testA, testB" in refused(find_recipe("glas_official"), tmp_path)
