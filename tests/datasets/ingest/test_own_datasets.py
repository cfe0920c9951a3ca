"""A user's own dataset by the name that its description gives it, and what the ingest says of single slides."""

from __future__ import annotations

import shutil

import pytest

from tests.datasets.ingest.folders import describe, ingest, tissue_on_glass, write_manifest, write_tiff
from tissuebench.datasets.ingest import fingerprint
from tissuebench.datasets.ingest.dataset import find_dataset, own_datasets
from tissuebench.datasets.ingest.ingest import IngestOptions, ensure_store
from tissuebench.datasets.ingest.outcome import remembered_origin
from tissuebench.datasets.store.slide_writer import written_slides
from tissuebench.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "slides"
    root.mkdir()
    for number in range(3):
        write_tiff(root / f"S{number}.tif", tissue_on_glass(number))
    describe(root, name="liver")
    write_manifest(root, *rows(3))
    return root


def rows(n):
    return [{"slide_id": f"S{number}", "patient_id": f"P{number}", "image": f"S{number}.tif"} for number in range(n)]


def by_name(name, home, **options):
    recipe = find_dataset(name, None, home)
    return ensure_store(recipe, home, None, lambda *_: None, IngestOptions(workers=1, **options))


def test_an_ingested_dataset_is_found_by_its_own_name(folder, tmp_path):
    made = ingest(folder, tmp_path)
    assert own_datasets(tmp_path) == ["liver"]
    assert by_name("liver", tmp_path).store.content_hash == made.store.content_hash
    assert find_dataset("liver", None, tmp_path).title == "slides of slides"


def test_update_by_name_takes_in_a_new_slide(folder, tmp_path):
    ingest(folder, tmp_path)
    write_tiff(folder / "S3.tif", tissue_on_glass(3))
    write_manifest(folder, *rows(4))
    assert len(by_name("liver", tmp_path).store.slides) == 3  # a sealed store is not checked again
    assert len(by_name("liver", tmp_path, update=True).store.slides) == 4


def test_only_an_ingest_remembers_the_folder(folder, tmp_path):
    ingest(folder, tmp_path)
    folder.rename(folder.with_name("moved"))
    moved = folder.with_name("moved")
    ingest(moved, tmp_path)  # the sealed store is compared with the files, and nothing is written
    assert remembered_origin(tmp_path / "data" / "liver") == folder
    ingest(moved, tmp_path, update=True)
    assert remembered_origin(tmp_path / "data" / "liver") == moved


def test_another_tile_size_by_name(folder, tmp_path):
    ingest(folder, tmp_path)
    assert by_name("liver@32", tmp_path).store.info.tile_px == 32


def test_the_name_is_also_right_for_a_folder_that_is_named_too(folder, tmp_path):
    assert find_dataset("liver", folder, tmp_path).name == "liver"
    with pytest.raises(ConfigError, match=r"unknown dataset 'lung': .*; .* holds 'liver'"):
        find_dataset("lung", folder, tmp_path)


def test_without_its_files_a_sealed_dataset_still_opens(folder, tmp_path):
    made = ingest(folder, tmp_path)
    shutil.rmtree(folder)
    assert by_name("liver", tmp_path).store.content_hash == made.store.content_hash
    for name, options in (("liver", {"update": True}), ("liver@32", {})):
        with pytest.raises(DataError, match=r"no longer there|needs its files"):
            by_name(name, tmp_path, **options)


def test_an_unknown_name_suggests_those_of_this_home(folder, tmp_path):
    ingest(folder, tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'liver'"):
        find_dataset("livr", None, tmp_path)


def test_a_name_of_the_catalog_is_refused(folder, tmp_path):
    describe(folder, name="synthetic")
    with pytest.raises(ConfigError, match="key 'name': 'synthetic' is a dataset of the suite"):
        ingest(folder, tmp_path)


def test_enlarged_slides_are_noted_and_refused_if_strict(folder, tmp_path):
    write_tiff(folder / "S1.tif", tissue_on_glass(1, side=256, edge=128), mpp=2.0)
    made = ingest(folder, tmp_path)
    notes = {slide_id: one.notes for slide_id, one in written_slides(made.store.path).items()}
    assert not notes["S0"]
    assert notes["S1"][0].startswith("enlarged 2 times: the file has 2 µm a pixel, the dataset 1;")
    with pytest.raises(DataError, match=r"S1\.tif: enlarged 2 times"):
        ingest(folder, tmp_path / "strict", strict=True)
    with pytest.raises(DataError, match=r"'S1': enlarged 2 times"):  # also where an earlier ingest took it in
        ingest(folder, tmp_path, strict=True, update=True)


def test_a_companion_file_that_changes_is_noticed(folder, tmp_path, monkeypatch):
    beside = folder / "S1.dat"
    beside.write_bytes(b"one")
    monkeypatch.setattr(fingerprint, "companions", lambda path: (beside,) if path.name == "S1.tif" else ())
    ingest(folder, tmp_path)
    beside.write_bytes(b"two")  # as long as before
    with pytest.raises(DataError, match="was made from other files"):
        ingest(folder, tmp_path)
