"""One picture under two patients: left out where it could be trained on and tested on, noted where it could not."""

from __future__ import annotations

import shutil

import pytest
import tifffile
import zarr

from tests.datasets.ingest.folders import (
    describe,
    ingest,
    square,
    tissue_on_glass,
    write_geojson,
    write_manifest,
    write_tiff,
)
from tissuebench.errors import DataError

TRAIN, TEST = {"split": "train"}, {"split": "test"}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "slides"
    root.mkdir()
    for number in range(4):
        write_tiff(root / f"S{number}.tif", tissue_on_glass(number))
    describe(root)
    return root


def row(number, patient=None, **cells):
    return {"slide_id": f"S{number}", "patient_id": patient or f"P{number}", "image": f"S{number}.tif", **cells}


def saved_again(folder, source, target):
    with tifffile.TiffFile(folder / source) as tif:
        pixels = tif.asarray()
    write = {"photometric": "rgb", "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / target, pixels, **write)  # neither tiled nor compressed: other bytes


def copied(folder, source, target):
    shutil.copyfile(folder / source, folder / target)


@pytest.mark.parametrize("copy", [copied, saved_again])
@pytest.mark.parametrize("parts", [(TRAIN, TEST), ({}, {})])
def test_copies_of_two_patients_are_left_out_both(folder, tmp_path, copy, parts):
    copy(folder, "S0.tif", "S3.tif")
    others = [row(1, **parts[0]), row(2, **parts[1])]
    write_manifest(folder, row(0, **parts[0]), *others, row(3, **parts[1]))
    made = ingest(folder, tmp_path)
    assert [bad.slide_id for bad in made.quarantine] == ["S0", "S3"]
    assert "S3 (patient P3" in made.quarantine[0].reason
    assert "one slide has one patient" in made.quarantine[0].reason
    assert sorted(made.store.slides) == ["S1", "S2"]


def test_the_same_file_named_twice_is_found_before_any_slide_is_read(folder, tmp_path):
    write_manifest(folder, row(0, **TRAIN), row(1, **TEST), row(2, **TRAIN) | {"image": "S0.tif"} | TEST)
    for name in ("S2.tif", "S3.tif"):
        (folder / name).unlink()
    made = ingest(folder, tmp_path)
    assert [bad.slide_id for bad in made.quarantine] == ["S0", "S2"]
    assert "is the same file as" in made.quarantine[0].reason


@pytest.mark.parametrize("copy", [copied, saved_again])
def test_copies_within_a_part_or_a_patient_are_noted(folder, tmp_path, copy):
    copy(folder, "S0.tif", "S3.tif")
    write_manifest(folder, row(0, **TRAIN), row(1, **TEST), row(2, **TRAIN), row(3, **TRAIN))
    made = ingest(folder, tmp_path)
    assert not made.quarantine
    assert made.notes == ("slides that are pixel by pixel the same and count as several: S0, S3",)
    write_manifest(folder, row(0, "P0"), row(1), row(2), row(3, "P0"))
    made = ingest(folder, tmp_path / "again")
    assert not made.quarantine
    assert len(made.notes) == 1


def test_notes_are_read_again_with_the_sealed_store(folder, tmp_path):
    copied(folder, "S0.tif", "S3.tif")
    write_manifest(folder, *(row(number, **TRAIN) for number in range(4)))
    assert ingest(folder, tmp_path).notes == ingest(folder, tmp_path).notes != ()


def test_strict_stops_at_copies(folder, tmp_path):
    saved_again(folder, "S0.tif", "S3.tif")
    write_manifest(folder, *(row(number) for number in range(4)))
    with pytest.raises(DataError, match=r"S0 .* pixel by pixel the same as S3"):
        ingest(folder, tmp_path, strict=True)


def test_two_images_of_one_file_are_no_copies(folder, tmp_path):
    first, second = tissue_on_glass(7), tissue_on_glass(8)
    with tifffile.TiffWriter(folder / "two.ome.tif") as file:
        for picture in (first, second):
            file.write(picture, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS", "PhysicalSizeX": 1.0})
    rows = [row(number) | {"image": "two.ome.tif", "series": str(number), "mpp": "1"} for number in range(2)]
    for name in ("S0.tif", "S1.tif"):
        (folder / name).unlink()
    write_manifest(folder, *rows, row(2), row(3))
    made = ingest(folder, tmp_path)
    assert not made.quarantine
    assert not made.notes


def test_an_annotation_that_two_slides_name_is_noted(folder, tmp_path):
    write_geojson(folder / "A.geojson", square("tumour", 80, 80, 200, 200))
    rows = [row(number, **TRAIN, annotation="A.geojson" if number < 2 else "") for number in range(4)]
    write_manifest(folder, *rows)
    assert ingest(folder, tmp_path).notes == ("annotations named by several slides: A.geojson by S0, S1",)


def test_folders_of_the_same_names_and_sizes_are_no_copies(folder, tmp_path):
    """Uncompressed OME-Zarr of two slides of one size: only the pixels tell them apart."""
    for number in range(2):
        write_zarr(folder / f"Z{number}.zarr", tissue_on_glass(number))
    write_zarr(folder / "Z2.zarr", tissue_on_glass(1))
    for number in range(4):
        (folder / f"S{number}.tif").unlink()
    rows = [row(number) | {"image": f"Z{number}.zarr"} for number in range(3)]
    write_manifest(folder, *rows)
    made = ingest(folder, tmp_path)
    assert [bad.slide_id for bad in made.quarantine] == ["S1", "S2"]
    assert "pixel by pixel the same" in made.quarantine[0].reason


def write_zarr(path, picture):
    group = zarr.create_group(path)
    planes = picture.transpose(2, 0, 1)
    group.create_array("0", shape=planes.shape, chunks=(3, 256, 256), dtype="uint8", compressors=None)[:] = planes
    axes = [{"name": "c", "type": "channel"}] + [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
