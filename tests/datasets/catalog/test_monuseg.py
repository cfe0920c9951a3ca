"""MoNuSeg 2018 on a miniature of the published layout."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile

from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.splits import official_split
from tissuebench.errors import DataError

TRAIN = ("TCGA-18-5592-01Z-00-DX1", "TCGA-A7-A13E-01Z-00-DX1", "TCGA-DK-A2I6-01A-01-TS1")
TEST = ("TCGA-2Z-A9J9-01A-01-TS1", "TCGA-HT-8564-01Z-00-DX1")
XML = '<?xml version="1.0"?><Annotations MicronsPerPixel="0.252"><Annotation Id="1"/></Annotations>'


def write_pair(images, annotations, name):
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(images / f"{name}.tif", np.full((8, 8, 3), 180, np.uint8), photometric="rgb")
    (annotations / f"{name}.xml").write_text(XML)


def write_monuseg(root, wrapped=False):
    train, test = root / "MoNuSeg 2018 Training Data", root / "MoNuSegTestData"
    if wrapped:  # an archive's own folder inside one of the archive's name
        train, test = train / train.name, test / test.name
    for name in TRAIN:
        write_pair(train / "Tissue Images", train / "Annotations", name)
    for name in TEST:
        write_pair(test, test, name)
    return train, test


def refused(root):
    with pytest.raises(DataError) as raised:
        find_recipe("monuseg").rows(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_published_parts_are_disjoint_by_tcga_participant(tmp_path, wrapped):
    train, test = write_monuseg(tmp_path, wrapped)
    recipe = find_recipe("monuseg")
    rows = recipe.rows(tmp_path)
    split = official_split("x", ((row.patient_id, row.split) for row in rows))
    assert split.patients("train") == ("TCGA-18-5592", "TCGA-A7-A13E", "TCGA-DK-A2I6")
    assert split.patients("test") == ("TCGA-2Z-A9J9", "TCGA-HT-8564")
    assert split.patients("val") == ()
    first, last = rows[0], rows[-1]
    assert first.slide_id == TRAIN[0]
    assert first.annotation == train / "Annotations" / f"{TRAIN[0]}.xml"
    assert last.image == test / f"{TEST[-1]}.tif"
    assert last.annotation == test / f"{TEST[-1]}.xml"
    assert all(row.annotation.is_file() and row.mpp == recipe.mpp == 0.25 for row in rows)
    assert (recipe.region_class, recipe.background) == ("nucleus", "background")


def test_lost_files_are_named(tmp_path):
    train, test = write_monuseg(tmp_path)
    (train / "Annotations" / f"{TRAIN[1]}.xml").unlink()
    assert f"{TRAIN[1]}.xml: no such file" in refused(tmp_path)
    (train / "Tissue Images" / f"{TRAIN[1]}.tif").unlink()
    (test / f"{TEST[0]}.tif").unlink()
    assert f"{TEST[0]}.xml: has no image" in refused(tmp_path)
    (test / f"{TEST[0]}.xml").unlink()
    assert len(find_recipe("monuseg").rows(tmp_path)) == 3


def test_half_of_the_data_set_or_none_of_it_is_refused(tmp_path):
    assert "holds no MoNuSeg 2018 training data" in refused(tmp_path)
    _, test = write_monuseg(tmp_path)
    shutil.rmtree(test)
    assert "holds no MoNuSeg 2018 test data" in refused(tmp_path)
    test.mkdir()
    assert "MoNuSegTestData: holds no .tif" in refused(tmp_path)


@pytest.mark.parametrize("name", ["slide1", "TCGA-18", "TCGA--5592-01Z", "GTEX-18-5592-01Z"])
def test_a_name_that_is_no_barcode_has_no_patient(tmp_path, name):
    write_monuseg(tmp_path)
    write_pair(tmp_path / "MoNuSegTestData", tmp_path / "MoNuSegTestData", name)
    assert "does not begin with a TCGA barcode" in refused(tmp_path)
