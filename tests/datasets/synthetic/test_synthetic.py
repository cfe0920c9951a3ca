from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from rasterio import features

from tissuebench.datasets.synthetic import (
    CLASS_NAMES,
    SyntheticConfig,
    cohort,
    render_slide,
    write_synthetic,
)
from tissuebench.errors import ConfigError

CONFIG = SyntheticConfig(n_train=2, n_val=0, n_test=2, size_px=512, seed=3)
TUMOURS = {"tumour A": "tumour_a", "tumour B": "tumour_b"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic")
    write_synthetic(path, CONFIG)
    return path


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rasterised(path: Path, size_px: int) -> npt.NDArray[np.uint8]:
    collection = json.loads(path.read_text(encoding="utf-8"))
    names = [feature["properties"]["classification"]["name"] for feature in collection["features"]]
    shapes = [
        (feature["geometry"], CLASS_NAMES.index(name))
        for feature, name in zip(collection["features"], names, strict=True)
    ]
    return np.asarray(features.rasterize(shapes, out_shape=(size_px, size_px), fill=255, dtype="uint8"))


def test_the_same_configuration_writes_the_same_cohort(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_synthetic(tmp_path, CONFIG, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 4) for done in range(5)]
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 9
    for name in files:
        if name.suffix == ".tif":
            assert np.array_equal(tifffile.imread(folder / name), tifffile.imread(tmp_path / name))
        else:
            assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_slide_does_not_depend_on_the_others() -> None:
    small = SyntheticConfig(n_train=1, n_val=0, n_test=0, size_px=256, seed=3)
    large = SyntheticConfig(n_train=4, n_val=4, n_test=4, size_px=256, seed=3)
    for patient in cohort(large)[:2]:
        render_slide(large, patient)
    alone, among = render_slide(small, cohort(small)[0]), render_slide(large, cohort(large)[0])
    assert np.array_equal(alone.image, among.image)
    assert np.array_equal(alone.labels, among.labels)


def test_a_slide_rendered_alone_is_the_one_written(folder: Path) -> None:
    patient = cohort(CONFIG)[2]
    slide = render_slide(CONFIG, patient)
    written = tifffile.imread(folder / "slides" / f"{patient.slide_id}.tif").astype(int)
    assert written.shape == slide.image.shape
    assert np.abs(written - slide.image).mean() < 4  # what JPEG costs


def test_another_seed_gives_another_slide() -> None:
    one, two = (SyntheticConfig(size_px=256, seed=seed) for seed in (0, 1))
    assert not np.array_equal(render_slide(one, cohort(one)[0]).labels, render_slide(two, cohort(two)[0]).labels)


def test_pyramid(folder: Path) -> None:
    for row in manifest(folder):
        with tifffile.TiffFile(folder / row["image"]) as tiff:
            pages = list(tiff.pages)
            assert [page.shape for page in pages] == [(512, 512, 3), (256, 256, 3), (128, 128, 3)]
            assert [
                int(page.tags["NewSubfileType"].value) if "NewSubfileType" in page.tags else 0 for page in pages
            ] == [0, 1, 1]
            assert len(tiff.series[0].levels) == 3
            for level, page in enumerate(pages):
                assert page.is_tiled and page.tile == (256, 256)
                assert page.compression.name == "JPEG"
                assert page.tags["ResolutionUnit"].value.name == "CENTIMETER"
                numerator, denominator = page.tags["XResolution"].value
                assert 1e4 * denominator / numerator == pytest.approx(0.5 * 2**level, rel=1e-6)
            base, reduced = (pages[level].asarray().astype(float).mean(axis=2) for level in (0, 2))
            assert np.abs(base.reshape(128, 4, 128, 4).mean(axis=(1, 3)) - reduced).mean() < 4


def test_annotations_give_back_the_labels(folder: Path) -> None:
    for patient in cohort(CONFIG):
        path = folder / "annotations" / f"{patient.slide_id}.geojson"
        assert path.stat().st_size < 500_000
        drawn, labels = rasterised(path, 512), render_slide(CONFIG, patient).labels
        assert (drawn == labels).mean() >= 0.98
        for index in np.unique(labels):
            both = ((drawn == index) & (labels == index)).sum()
            assert both / ((drawn == index) | (labels == index)).sum() >= 0.95


def test_annotation_features_are_qupath_style(folder: Path) -> None:
    collection = json.loads((folder / "annotations" / "S01.geojson").read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    first = collection["features"][0]
    assert first["properties"]["classification"]["name"] == "glass"
    corners = {tuple(corner) for corner in first["geometry"]["coordinates"][0]}
    assert corners == {(0, 0), (512, 0), (512, 512), (0, 512)}
    identities = [feature["id"] for feature in collection["features"]]
    assert len(set(identities)) == len(identities)
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] in {"Polygon", "MultiPolygon"}
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] in CLASS_NAMES
        assert len(feature["properties"]["classification"]["color"]) == 3


@pytest.mark.parametrize("size_px", [512, 1024])
def test_every_class_but_the_other_tumour_is_on_the_slide(size_px: int) -> None:
    config = SyntheticConfig(n_train=2, n_val=0, n_test=0, size_px=size_px, seed=5)
    for patient in cohort(config):
        labels = render_slide(config, patient).labels
        share = dict(zip(CLASS_NAMES, np.bincount(labels.ravel(), minlength=6) / labels.size, strict=True))
        own = TUMOURS[patient.diagnosis]
        other = ({"tumour_a", "tumour_b"} - {own}).pop()
        assert share[other] == 0
        assert 0.18 <= share[own] <= 0.37
        assert all(share[name] >= 0.035 for name in ("glass", "stroma", "normal_gland", "lymphocytes"))


def test_glass_is_bright_and_nuclei_are_dark() -> None:
    config = SyntheticConfig(size_px=512, seed=1)
    slide = render_slide(config, cohort(config)[0])
    grey = slide.image.mean(axis=2)
    assert grey[slide.labels == 0].mean() > 215
    assert grey[slide.labels == CLASS_NAMES.index("stroma")].mean() > grey[slide.labels == 3].mean()


def test_manifest(folder: Path) -> None:
    rows = manifest(folder)
    assert list(rows[0]) == ["slide_id", "patient_id", "image", "annotation", "diagnosis", "split"]
    assert [row["split"] for row in rows] == ["train", "train", "test", "test"]
    assert [row["patient_id"] for row in rows] == ["P01", "P02", "P03", "P04"]
    for split in ("train", "test"):
        assert sorted(row["diagnosis"] for row in rows if row["split"] == split) == ["tumour A", "tumour B"]
    for row in rows:
        assert (folder / row["image"]).is_file()
        names = {
            feature["properties"]["classification"]["name"]
            for feature in json.loads((folder / row["annotation"]).read_text(encoding="utf-8"))["features"]
        }
        assert names & set(TUMOURS.values()) == {TUMOURS[row["diagnosis"]]}


@pytest.mark.parametrize("wrong", [{"size_px": 255}, {"size_px": 100}, {"mpp": 0.0}, {"n_val": -1}])
def test_impossible_configurations_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="synthetic"):
        SyntheticConfig(**wrong)
