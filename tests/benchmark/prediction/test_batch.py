"""``tissuebench predict`` on several slides: folders, continuing, failures, and the table of all."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from click.testing import CliRunner

from tests.datasets.readers.dicoms import write_dicom
from tissuebench.cli.predict import predict
from tissuebench.errors import ConfigError, DataError
from tissuebench.prediction import load_method
from tissuebench.prediction.batch import lay_out
from tissuebench.prediction.options import PredictionOptions


def typed(*arguments, code=0):
    done = CliRunner().invoke(predict, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def refused(*arguments):
    done = CliRunner().invoke(predict, [str(argument) for argument in arguments])
    assert isinstance(done.exception, (DataError, ConfigError)), (done.output, done.exception)
    assert "\n" not in str(done.exception)
    return str(done.exception)


@pytest.fixture
def slides(small_slide):
    return [shutil.copy(small_slide, small_slide.with_name(f"S{number}.tif")) for number in (1, 2, 3)]


@pytest.fixture
def loaded(monkeypatch):
    """How often a network was loaded."""
    calls = []
    method = load_method.Trained.method

    def counted(self):
        calls.append(self.key)
        return method(self)

    monkeypatch.setattr(load_method.Trained, "method", counted)
    return calls


def test_slides_go_on_after_a_failure_and_the_same_command_does_the_rest(trained, slides, loaded, tmp_path):
    out = tmp_path / "out"
    whole = slides[1].read_bytes()
    slides[1].write_bytes(whole[:2000])
    command = (*slides, "--trial", trained.trial, "--home", trained.home, "--out", out)
    first = typed(*command, code=3)
    assert len(loaded) == 1
    assert first.stdout.splitlines() == [str(out / "S1"), str(out / "S3")]
    assert "slide 2/3 S2.tif: FAILED: " in first.stderr and "slide 1/3 S1.tif: predicting megapixels" in first.stderr
    assert [line for line in first.stderr.splitlines() if line.startswith("slide 1/3 S1.tif: done in")]
    assert "left" in first.stderr
    assert sorted(item.name for item in out.iterdir()) == ["S1", "S3", "predictions.csv"]

    slides[1].write_bytes(whole)
    before = (out / "S1" / "prediction.json").read_bytes()
    again = typed(*command)
    assert len(loaded) == 2
    assert again.stdout.splitlines() == [str(out / name) for name in ("S1", "S2", "S3")]
    assert again.stderr.count("kept, it is finished already") == 2
    assert (out / "S1" / "prediction.json").read_bytes() == before
    assert (out / "S1" / "areas.csv").read_bytes() == (out / "S2" / "areas.csv").read_bytes()

    typed(*command)
    assert len(loaded) == 2  # nothing to predict, nothing loaded
    typed(*command, "--overwrite")
    assert (out / "S1" / "prediction.json").read_bytes() != before


def test_the_table_has_a_row_per_slide_with_the_columns_of_its_folder(trained, slides, tmp_path):
    out = tmp_path / "out"
    typed(*slides[:2], "--trial", trained.trial, "--home", trained.home, "--out", out)
    typed(slides[0], slides[2], "--trial", trained.trial, "--home", trained.home, "--out", out)
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [row["slide"] for row in rows] == ["S1.tif", "S2.tif", "S3.tif"]  # also those of the first command
    for row in rows:
        folder = out / row["slide"].removesuffix(".tif")
        assert list(csv.DictReader((folder / "predictions.csv").open())) == [row]
        areas = list(csv.DictReader((folder / "areas.csv").open()))
        assert {one["class"]: one["share"] for one in areas} == {
            one["class"]: row[f"share/{one['class']}"] for one in areas
        }
        assert {one["class"]: one["area_mm2"] for one in areas} == {
            one["class"]: row[f"mm2/{one['class']}"] for one in areas
        }
        record = json.loads((folder / "prediction.json").read_text())
        assert row["trial"] == trained.trial
        assert row["call"] == record["case"]["call"]
        assert row["warnings"] == str(len(record["warnings"]))
    assert list(rows[0])[-1] == "warnings"


def test_without_out_folders_and_table_are_named_after_the_trial(trained, slides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed(*slides[:2], "--trial", trained.trial, "--home", trained.home)
    short = trained.trial[:8]
    assert (tmp_path / f"S1-{short}").is_dir() and (tmp_path / f"S2-{short}").is_dir()
    assert len(list(csv.DictReader((tmp_path / f"predictions-{short}.csv").open()))) == 2


def test_slides_of_one_name_are_refused_before_anything_is_predicted(trained, slides, loaded, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(slides[0], other / "S1.tif")
    common = ("--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "out")
    assert "have the same name: both would be written to" in refused(slides[0], other / "S1.tif", slides[1], *common)
    assert not loaded and not (tmp_path / "out").exists()
    typed(slides[0], slides[0], *common)  # the same file twice is one slide
    assert (tmp_path / "out" / "areas.csv").is_file()
    assert "holds the prediction of one slide" in refused(*slides, *common)


def test_the_files_of_one_slide_are_one_slide(trained, tmp_path):
    series = [write_dicom(tmp_path / f"level{n}.dcm", "1.2.3", "VOLUME", 512 >> n) for n in range(3)]
    other = write_dicom(tmp_path / "other.dcm", "1.2.4", "VOLUME", 512)
    found = load_method.find_trained(trained.home, trained.trial)
    jobs = lay_out([*series, other], found, PredictionOptions(), tmp_path / "out", overwrite=False)
    assert [job.slide for job in jobs] == [series[0], other]


def test_a_folder_with_another_prediction_is_refused(trained, slides, tmp_path):
    common = ("--trial", trained.trial, "--home", trained.home, "--out", tmp_path / "out")
    typed(*slides[:2], *common)
    slides[0].write_bytes(slides[0].read_bytes() + b"x")
    assert "with a prediction of another slide, S1.tif; use --overwrite" in refused(*slides, *common)
    record = tmp_path / "out" / "S1" / "prediction.json"
    record.write_text("{}")
    assert "not a usable record of a prediction" in refused(*slides, *common)
    assert not (tmp_path / "out" / "S3").exists()


def test_what_cannot_be_meant_is_one_line(trained, slides, tmp_path):
    common = (slides[0], "--home", trained.home, "--out", tmp_path / "out")
    assert "give --trial ID, or --method and --budget" in refused(*common)
    assert "give --trial ID, or --method and --budget" in refused(*common, "--method", "supervised")
    named = ("--trial", trained.trial)
    assert "leave out --method" in refused(*common, *named, "--method", "supervised", "--budget", "masks:2p")
    assert "write 0 for the borders of pixels" in refused(*common, *named, "--simplify", 0.5)
    assert not (tmp_path / "out").exists()


def test_by_method_and_budget(trained, slides, tmp_path):
    common = (slides[0], "--home", trained.home, "--out", tmp_path / "out")
    done = typed(*common, "--method", "supervised", "--budget", "masks:2p", "--dataset", "tiny")
    assert f"trial {trained.trial[:8]} (supervised masks:2p on tiny, draw 0, seed 0): the only one" in done.stderr
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["trial"]["id"] == trained.trial
    line = refused(*common, "--method", "supervised", "--budget", "masks:9p")
    assert (
        "no trial of supervised at masks:9p has finished" in line and "finished are supervised masks:2p (tiny)" in line
    )


def test_a_smallest_area_needs_a_resolution(trained, slides, tmp_path, monkeypatch):
    common = (slides[0], "--trial", trained.trial, "--home", trained.home)
    typed(*common, "--out", tmp_path / "all", "--simplify", 0)
    typed(*common, "--out", tmp_path / "large", "--simplify", 0, "--min-area", 400)  # 100 pixels of 2 µm
    n = [len(json.loads((tmp_path / o / "labels.geojson").read_text())["features"]) for o in ("all", "large")]
    assert n[1] < n[0]
    assert (tmp_path / "all" / "areas.csv").read_bytes() == (tmp_path / "large" / "areas.csv").read_bytes()
