"""``tissuebench predict``: from a slide file to files that people open."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import zarr
from click.testing import CliRunner
from rasterio import Affine
from rasterio.features import rasterize

from tests.clusters.standin import wait_until
from tissuebench.cli.predict import predict
from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.datasets.ingest.convert import fit_stain
from tissuebench.datasets.readers import Bounds, Slide, open_slide
from tissuebench.datasets.store.digest import RasterDigest
from tissuebench.datasets.store.pyramid import blocks
from tissuebench.datasets.store.tissue import shrink, tissue_mask, tissue_pixels
from tissuebench.errors import ConfigError, DataError
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.prediction.load_method import find_trained

MADE = ["areas.csv", "labels.geojson", "labels.ome.zarr", "prediction.json", "predictions.csv"]
EXACT = ("--glass", "--simplify", 0)


def invoke(*arguments):
    """The folder that was made, and what was said beside."""
    done = CliRunner().invoke(predict, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout.strip(), done.stderr


def refused(*arguments):
    done = CliRunner().invoke(predict, [str(argument) for argument in arguments])
    assert isinstance(done.exception, (DataError, ConfigError)), done.exception
    assert "\n" not in str(done.exception)
    return str(done.exception)


def labels_of(folder):
    return zarr.open_array(folder / "labels.ome.zarr" / "labels" / "prediction" / "0", mode="r")[...]


def test_a_real_slide_comes_back_from_every_file(trained, shared_data, tmp_path):
    path, out = shared_data / "wsi_small" / "CMU-1-Small-Region.svs", tmp_path / "out"
    said, notes = invoke(path, "--trial", trained.trial[:8], "--home", trained.home, "--out", out, *EXACT)
    assert said == str(out)
    assert notes.splitlines()[-1] == f"Next: open the slide in QuPath and drag {out / 'labels.geojson'} onto it"
    assert sorted(item.name for item in out.iterdir()) == MADE
    assert "predicting megapixels 1/1" in notes
    record = json.loads((out / "prediction.json").read_text())
    assert record["scale"] == pytest.approx(2.0 / 0.499)
    labels = labels_of(out)
    assert labels.shape == (record["height"], record["width"]) == (740, 554)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}

    class_map = trained.store.class_map
    document = json.loads((out / "labels.geojson").read_text())
    scale = document["tissuebench"]["scale"]
    assert scale == record["scale"]
    pairs = [
        (one["geometry"], class_map.names.index(one["properties"]["classification"]["name"]))
        for one in document["features"]
    ]
    again = rasterize(pairs, out_shape=labels.shape, fill=255, transform=Affine.scale(scale), dtype=np.uint8)
    assert np.array_equal(again, labels)
    with open_slide(path, 2.0) as slide:
        frame = Frame(slide.level0_size, (slide.height, slide.width), slide.scale)
        region = slide.region(0, 0, slide.height, slide.width)
    read = open_annotation(out / "labels.geojson", class_map, frame).raster(0, 0, *labels.shape)
    assert np.array_equal(read, labels)

    picture = zarr.open_array(out / "labels.ome.zarr" / "0", mode="r")[...]
    assert np.array_equal(picture.transpose(1, 2, 0), region)

    rows = list(csv.DictReader((out / "areas.csv").open()))
    assert [row["class"] for row in rows] == list(class_map.names)
    assert [int(row["pixels"]) for row in rows] == [(labels == value).sum() for value in range(4)]
    assert float(rows[0]["area_mm2"]) == pytest.approx((labels == 0).sum() * 4e-6, rel=1e-5)

    digest = RasterDigest(labels.shape)
    for y, x, height, width in blocks(*labels.shape):
        digest.update(labels[y : y + height, x : x + width])
    assert record["hashes"]["labels"] == digest.hexdigest()
    assert record["trial"]["id"] == trained.trial
    assert [one["name"] for one in record["classes"]] == list(class_map.names)
    assert record["warnings"] == []
    assert str(tmp_path) not in (out / "prediction.json").read_text()


def test_labels_are_those_of_the_trained_network(trained, small_slide, tmp_path):
    """The first window by hand, with the weights that the trial has left."""
    found = find_trained(trained.home, trained.trial)
    method = found.method()
    kept = torch.load(trained.home / "runs" / "trials" / trained.trial / "fitted.pt", weights_only=True)["state"]
    assert all(torch.equal(value, kept[name]) for name, value in method.state_dict().items())
    invoke(small_slide, "--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "out")
    labels = labels_of(tmp_path / "out")
    assert found.trial.evaluation == EvaluationSettings()
    with open_slide(small_slide, 2.0) as slide, torch.inference_mode():
        corner = torch.from_numpy(slide.region(0, 0, 32, 32).transpose(2, 0, 1).copy())[None]
        expected = method.predict(corner)[0].argmax(0).numpy()
    clear = 32 - int(found.trial.evaluation.overlap * 32)  # no other window reaches so far
    assert len(np.unique(expected[:clear, :clear])) > 1
    # The machine may predict in bfloat16, where a few pixels on a border fall to the other side.
    assert (labels[:clear, :clear] == expected[:clear, :clear]).mean() > 0.98


def test_glass_is_left_out_of_areas_and_outlines_unless_it_is_wanted(trained, shared_data, tmp_path):
    """Tissue is what a store of the slide would have as tissue."""
    path = shared_data / "wsi_small" / "CMU-1-Small-Region.svs"
    common = (path, "--trial", trained.trial, "--home", trained.home, "--simplify", 0)
    invoke(*common, "--out", tmp_path / "tissue")
    invoke(*common, "--out", tmp_path / "whole", "--glass")
    labels = labels_of(tmp_path / "tissue")
    assert np.array_equal(labels, labels_of(tmp_path / "whole"))
    assert (labels != 255).all()
    with open_slide(path, 2.0) as slide:
        mask = tissue_mask(shrink(slide.region(0, 0, slide.height, slide.width)))
    there = tissue_pixels(mask, 0, 0, *labels.shape)
    assert 0.05 < there.mean() < 0.95
    for name, counted in (("tissue", there), ("whole", np.ones_like(there))):
        document = json.loads((tmp_path / name / "labels.geojson").read_text())
        pairs = [(one["geometry"], 1) for one in document["features"]]
        scale = Affine.scale(document["tissuebench"]["scale"])
        assert np.array_equal(rasterize(pairs, out_shape=labels.shape, transform=scale), counted), name
        rows = list(csv.DictReader((tmp_path / name / "areas.csv").open()))
        assert [int(row["pixels"]) for row in rows] == [(labels[counted] == value).sum() for value in range(4)]
        record = json.loads((tmp_path / name / "prediction.json").read_text())
        assert (record["tissue_pixels"], record["glass_pixels"]) == (there.sum(), (~there).sum())
        assert [one["tissue_pixels"] for one in record["classes"]] == [(labels[there] == k).sum() for k in range(4)]
        (row,) = csv.DictReader((tmp_path / name / "predictions.csv").open())
        assert [float(row[f"share/{one['class']}"]) for one in rows] == [float(one["share"]) for one in rows]
        assert float(row["tissue_mm2"]) == pytest.approx(there.sum() * 4e-6, rel=1e-5)
        a, b = ((labels[there] == value).sum() for value in (2, 3))
        assert row["call"] == record["case"]["call"] == ("A" if a > b else "B" if b > a else "tie: A; B")
        if a + b:
            assert float(row["case/A"]) == pytest.approx(a / (a + b), rel=1e-5)


@pytest.fixture
def cropped(monkeypatch):
    """Every slide states that only a part of it was scanned."""
    bounds = Bounds(20, 30, 120, 150)
    made = Slide.__init__

    def bounded(self, *arguments):
        made(self, *arguments)
        self.bounds = bounds

    monkeypatch.setattr(Slide, "__init__", bounded)
    return bounds


@pytest.mark.parametrize(("frame", "offset"), [("bounds", (30, 20)), ("slide", (0, 0))])
def test_outlines_are_in_the_coordinates_that_qupath_shows(trained, small_slide, cropped, tmp_path, frame, offset):
    chosen = () if frame == "bounds" else ("--frame", frame)
    invoke(small_slide, "--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "out", *EXACT, *chosen)
    document = json.loads((tmp_path / "out" / "labels.geojson").read_text())
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert document["tissuebench"]["frame"] == record["frame"] == frame
    assert record["slide"]["bounds"] == {"y": 20, "x": 30, "height": 120, "width": 150}
    labels = labels_of(tmp_path / "out")
    assert record["tissue_pixels"] + record["glass_pixels"] == 60 * 75 < labels.size
    scanned = np.full_like(labels, 255)
    scanned[10:70, 15:90] = labels[10:70, 15:90]
    names = trained.store.class_map.names
    pairs = [
        (one["geometry"], names.index(one["properties"]["classification"]["name"])) for one in document["features"]
    ]
    placed = Affine.translation(-offset[0], -offset[1]) @ Affine.scale(record["scale"])
    assert np.array_equal(rasterize(pairs, out_shape=labels.shape, fill=255, transform=placed, dtype=np.uint8), scanned)
    with open_slide(small_slide, 2.0) as slide:
        where = Frame(slide.level0_size, (slide.height, slide.width), slide.scale, slide.bounds)
    read = open_annotation(tmp_path / "out" / "labels.geojson", trained.store.class_map, where)
    assert np.array_equal(read.raster(0, 0, *labels.shape), scanned)


def test_a_slide_without_bounds_is_in_its_own_frame(trained, small_slide, tmp_path):
    invoke(small_slide, "--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "out", "--gzip")
    assert (tmp_path / "out" / "labels.geojson.gz").is_file() and not (tmp_path / "out" / "labels.geojson").exists()
    document = json.loads(gzip.decompress((tmp_path / "out" / "labels.geojson.gz").read_bytes()))
    assert document["tissuebench"]["frame"] == "slide"


def test_default_folder_overwriting_and_the_same_bits_again(trained, small_slide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = (small_slide, "--trial", trained.trial, "--home", trained.home)
    folder, _ = invoke(*common)
    assert folder == str(tmp_path / f"small-{trained.trial[:8]}")
    (tmp_path / folder / "kept.txt").touch()
    again, notes = invoke(*common)
    assert again == folder and "kept, it is finished already" in notes
    line = refused(*common, "--glass")
    assert f"small-{trained.trial[:8]}: already exists, with a prediction with other options; use --overwrite" in line
    before = {name: (tmp_path / folder / name).read_bytes() for name in ("labels.geojson", "areas.csv")}
    invoke(*common, "--overwrite")
    assert not (tmp_path / folder / "kept.txt").exists()
    assert {name: (tmp_path / folder / name).read_bytes() for name in before} == before
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([small_slide.name, f"small-{trained.trial[:8]}"])


def test_a_folder_that_is_no_prediction_is_never_replaced(trained, small_slide, tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("one")
    line = refused(small_slide, "--trial", trained.trial, "--home", trained.home, "--out", precious, "--overwrite")
    assert "has no prediction.json, so it is not replaced" in line
    assert (precious / "chapter.txt").read_text() == "one"


def test_bad_input_is_one_line(trained, small_slide, shared_data, tmp_path):
    common = ("--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no slide")
    (tmp_path / "folder.svs").mkdir()
    (tmp_path / "broken.tif").write_bytes(small_slide.read_bytes()[:2000])
    for path, expected in (
        (tmp_path / "gone.svs", "gone.svs: no such file"),
        (tmp_path / "notes.txt", "unknown slide format '.txt'"),
        (tmp_path / "broken.tif", "broken.tif: "),
        (tmp_path / "folder.svs", "is a folder, without a DICOM slide in it"),
        (shared_data / "wsi_small" / "test3-TRITC-560.ndpi", "looks like fluorescence"),
    ):
        line = refused(path, *common)
        assert expected in line
        assert "manifest" not in line
    unknown = shared_data / "wsi_small" / "TCGA-CR-7395-01A-01-TS1.svs"
    assert "does not state its resolution, and the trial was trained at 2 µm; give --mpp" in refused(unknown, *common)
    assert "mpp -1.0 is not a resolution" in refused(small_slide, *common, "--mpp", -1)
    for trial, expected in (
        ("ffff0000", "no trial 'ffff0000'"),
        (trained.waiting, "is waiting: only finished trials can"),
    ):
        assert expected in refused(small_slide, "--trial", trial, "--home", trained.home)
    assert not (tmp_path / "out").exists()


def test_a_trial_whose_store_or_weights_are_gone_says_so(trained, small_slide, tmp_path):
    home = tmp_path / "home"
    (home / "runs" / "trials").mkdir(parents=True)
    (home / "runs" / "results").symlink_to(trained.home / "runs" / "results")
    folder = home / "runs" / "trials" / trained.trial
    folder.mkdir()
    common = (small_slide, "--trial", trained.trial, "--home", home, "--out", tmp_path / "out")
    there = trained.home / "runs" / "trials" / trained.trial
    (folder / "job.json").symlink_to(there / "job.json")
    assert "fitted.pt: no such file" in refused(*common)
    (folder / "fitted.pt").write_bytes((there / "fitted.pt").read_bytes()[:5000])
    assert "store.zarr: no such store" in refused(*common)
    (home / "data").symlink_to(trained.home / "data")
    assert "fitted.pt: cannot be read" in refused(*common)
    assert [item.name for item in tmp_path.iterdir() if item.name.endswith(".partial")] == []


def test_what_may_spoil_a_prediction_is_said(trained, small_slide, tmp_path):
    common = ("--trial", trained.trial, "--home", trained.home)
    _, notes = invoke(small_slide, *common, "--out", tmp_path / "coarse", "--mpp", 4)
    record = json.loads((tmp_path / "coarse" / "prediction.json").read_text())
    assert record["scale"] == 0.5
    assert (record["height"], record["width"]) == (340, 460)
    assert any("it was enlarged" in line for line in record["warnings"])
    assert any("the file says 1 µm a pixel; the given 4 is used" in line for line in record["warnings"])
    assert notes.count("warning: ") == 2


def test_killed_it_leaves_nothing_under_the_name_and_can_be_run_again(trained, shared_data, tmp_path):
    path, out = shared_data / "wsi_small" / "CMU-1-Small-Region.svs", tmp_path / "out"
    code = "from tissuebench.cli.predict import predict; predict()"
    command = [
        *(sys.executable, "-P", "-c", code, str(path), "--trial", trained.trial, "--home", str(trained.home)),
        *("--out", str(out)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    work = tmp_path / ".out.partial"
    wait_until(work.is_dir, "it has begun")
    line = refused(path, "--trial", trained.trial, "--home", trained.home, "--out", out)
    assert "another process is writing it" in line
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert work.is_dir()
    assert not out.exists()
    (work / "left.txt").write_text("behind")
    invoke(path, "--trial", trained.trial, "--home", trained.home, "--out", out, "--mpp", 0.25)
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
    assert sorted(item.name for item in out.iterdir()) == MADE


@pytest.mark.parametrize("stain", ["macenko", pytest.param("reinhard", marks=pytest.mark.slow)])
def test_a_slide_is_brought_to_the_stain_of_those_that_were_trained_on(
    trained, stain, shared_data, tmp_path, monkeypatch
):
    """The same labels as of a file that was normalised before."""
    path = shared_data / "wsi_small" / "CMU-1-Small-Region.svs"
    mpp = trained.store.info.mpp
    with open_slide(path, mpp) as slide:
        pixels = fit_stain(stain, slide).apply(slide.region(0, 0, slide.height, slide.width))
    assert fit_stain("none", None) is None
    per_cm = 1e4 / mpp
    tifffile.imwrite(
        tmp_path / "before.tif",
        pixels,
        photometric="rgb",
        tile=(64, 64),
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
    )
    invoke(path, "--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "plain")
    invoke(tmp_path / "before.tif", "--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "before")

    def found(home, prefix):
        one = find_trained(home, prefix)
        one.store.info = replace(one.store.info, stain=stain)
        return one

    monkeypatch.setattr("tissuebench.prediction.load_method.find_trained", found)
    invoke(path, "--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "during")
    assert np.array_equal(labels_of(tmp_path / "during"), labels_of(tmp_path / "before"))
    assert not np.array_equal(labels_of(tmp_path / "during"), labels_of(tmp_path / "plain"))
    assert json.loads((tmp_path / "during" / "prediction.json").read_text())["trial"]["stain"] == stain
