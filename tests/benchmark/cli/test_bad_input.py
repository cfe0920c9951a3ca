"""Bad input through the command itself: one line that says what to do, exit code 2, nothing left half-written."""

from __future__ import annotations

import csv
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tissuebench.cli.main import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that begins with the program's name; progress may stand before it, nothing after it."""
        lines = self.err.splitlines()
        complaints = [line for line in lines if line.startswith("tissuebench: ")]
        assert len(complaints) == 1, self.err
        assert lines[-1] == complaints[0]
        assert "Traceback" not in self.err
        return complaints[0]


@pytest.fixture
def command(monkeypatch, capfd):
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments) -> Ran:
        monkeypatch.setattr(sys, "argv", ["tissuebench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capfd.readouterr()
        return Ran(int(stopped.value.code or 0), printed.out, printed.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def source(tiny_source, tmp_path):
    return shutil.copytree(tiny_source, tmp_path / "source")


@pytest.fixture
def refused(command, home, source):
    """Run on the tiny folder; asserts how it fails and hands back the line."""

    def run(*arguments, method="supervised", leaves=()) -> str:
        given = [] if "--data-root" in arguments else ["--data-root", source]
        named = [] if "--dataset" in arguments else ["--dataset", "folder"]
        ran = command("run", "--method", method, *named, *given, "--home", home, *arguments)
        assert ran.code == 2
        assert ran.out == ""
        left = {path.relative_to(home).as_posix() for path in home.rglob("*")} if home.exists() else set()
        assert not [name for name in left if re.search(r"\.partial|\.tmp|^runs|features", name)]
        assert {name for name in left if name.endswith((".zarr", "split.json"))} == set(leaves)
        return ran.complaint

    return run


WHOLE = ("data/tiny/store.zarr", "data/tiny/split.json")


def test_no_data_root(command, home, tmp_path, refused):
    assert "no such file" in refused("--data-root", tmp_path / "nowhere")
    ran = command("run", "--method", "supervised", "--dataset", "folder", "--home", home)
    assert ran.code == 2
    assert "--data-root" in ran.complaint
    assert not home.exists()


def test_a_data_root_that_is_not_there(tmp_path, refused):
    assert "nowhere: no such folder" in refused("--dataset", "synthetic", "--data-root", tmp_path / "nowhere")
    assert "nowhere" in refused("--dataset", "ebhi", "--data-root", tmp_path / "nowhere")


def test_an_unknown_method(refused):
    line = refused(method="complementry")
    assert "unknown method 'complementry': did you mean 'complementary'?" in line
    assert "supervised" in line


def test_an_unknown_dataset(refused):
    assert "unknown dataset 'syntetic': did you mean 'synthetic'?" in refused("--dataset", "syntetic")


def test_an_unknown_key(refused):
    assert "did you mean 'training.steps'?" in refused("--set", "training.stepss=3")


def test_an_unknown_plan(refused, tmp_path):
    assert "unknown plan 'smokee': did you mean 'smoke'?" in refused("--plan", "smokee")
    (tmp_path / "plan.yaml").write_text("budgets: [")
    assert "plan.yaml: not YAML" in refused("--plan", tmp_path / "plan.yaml")


def test_an_unknown_setting_of_a_method(refused):
    """Told before the data are made: nothing is left."""
    line = refused("--set", "methods.complementary.gama=1", method="complementary")
    assert "did you mean 'gamma'?" in line
    assert "did you mean 'supervised'?" in refused("--set", "methods.supervise.x=1")


@pytest.mark.parametrize("key", ["classifier_weights", "segmenter_weights"])
def test_a_file_of_weights_that_is_not_there(refused, tmp_path, key):
    method, path = "multilayer_pseudo_published", tmp_path / "a1.params"
    given = ("backbone=paper", f"{key}={path}")
    line = refused(*(word for one in given for word in ("--set", f"methods.{method}.{one}")), method=method)
    assert f"methods.{method}: key '{key}'" in line and f"no such file: {path}" in line


def test_an_unknown_command(command):
    ran = command("runn")
    assert (ran.code, ran.out) == (2, "")
    assert "unknown command 'runn': did you mean 'run'?" in ran.complaint
    assert "did you mean 'ingest'?" in command("data", "ingst").complaint


@pytest.fixture
def left_out(command, home, source):
    """Ingest the tiny folder strictly, which refuses, and not, which leaves a slide out; hands back the line."""

    def run() -> str:
        ingest = ("data", "ingest", "folder", "--data-root", source, "--home", home)
        strict = command(*ingest, "--strict")
        assert (strict.code, strict.out) == (2, "")
        assert not list(home.rglob("store.zarr"))
        lenient = command(*ingest)
        assert lenient.code == 3
        assert "11 slides, 1 left out" in lenient.out
        assert "left out: slide05: " in lenient.err
        assert command("data", "ingest", "folder", "--data-root", source, "--home", home).code == 3
        return strict.complaint

    return run


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image(source, left_out, content):
    path = source / "slide05.png"
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    assert re.search(r"slide05\.png: (cannot be read as an image|is empty)", left_out())


def test_an_image_that_is_not_there(source, left_out):
    (source / "slide05.png").unlink()
    assert "slide05.png: no such file; check the manifest's column 'image'" in left_out()


def test_a_mask_of_another_size(source, left_out):
    Image.fromarray(np.zeros((64, 95), dtype=np.uint8)).save(source / "slide05_mask.png")
    assert "slide05_mask.png: mask is 95 x 64 px but its image is 96 x 64 px" in left_out()


def test_a_mask_value_outside_the_class_map(source, left_out):
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[3, 4] = 9
    Image.fromarray(mask).save(source / "slide05_mask.png")
    assert "slide05_mask.png: mask value 9 is outside the class map (0 to 3" in left_out()


def test_a_run_goes_on_without_a_bad_slide_and_says_so(command, home, source):
    (source / "slide05.png").write_bytes(b"")
    arguments = ("--dataset", "folder", "--data-root", source, "--home", home, "--dry-run")
    assert command("data", "ingest", "folder", "--data-root", source, "--home", home).code == 3
    ran = command("run", "--method", "supervised", *arguments)
    assert ran.code == 0
    assert "1 slides are left out; see why with 'tissuebench data inspect tiny'" in ran.err
    assert ran.out.count("to run") > 0


def edit_manifest(source, old, new):
    path = source / "manifest.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_one_patient_in_two_parts(source, refused):
    edit_manifest(source, "slide11,case11", "slide11,case00")
    assert "patient 'case00' is in both 'train' and 'test'" in refused()


def test_a_missing_column(source, refused):
    edit_manifest(source, "image", "images")
    assert "manifest.csv: column 'image' is missing" in refused()


def test_no_manifest(source, refused):
    (source / "manifest.csv").unlink()
    assert "manifest.csv: no such manifest" in refused()


def test_a_dataset_file_that_is_no_yaml_is_told_with_the_place(source, refused):
    (source / "dataset.yaml").write_text("name: mine\nclasses: [")
    line = refused()
    assert "dataset.yaml: not YAML" in line and "line 2" in line


def test_a_resolution_that_is_asked_for_and_not_known(source, refused):
    text = (source / "dataset.yaml").read_text()
    (source / "dataset.yaml").write_text(text.replace("mpp: null", "mpp: 1.0"))
    line = refused()
    assert "none of 12 slides can be used; the first: " in line
    assert "slide00.png: the file does not say its resolution; fill the manifest's column 'mpp'" in line


def test_a_budget_larger_than_the_training_part(refused, home):
    line = refused("--budget", "masks:99p", leaves=WHOLE)
    assert "budget 'masks:99p' asks for 99 patients, the training part has 7" in line
    assert "write 'masks:3p'" in refused("--budget", "3 patients", leaves=WHOLE)
    assert not list(home.rglob("budgets/**/*.json"))


def test_seeds_that_are_no_numbers(refused):
    assert "--seed: seeds are whole numbers, got one" in refused("--seed", "one")


def test_a_part_without_patients(source, refused):
    path = source / "manifest.csv"
    path.write_text(path.read_text().replace(",val", ",train"))
    line = refused("--set", "evaluation.part=val", leaves=WHOLE)
    assert "evaluation.part" in line
    assert "evaluation.watch" in refused("--set", "evaluation.watch=val", leaves=WHOLE)
    assert "no patients" in line


def rewritten(source, change):
    """Change the manifest's rows in place."""
    path = source / "manifest.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | change(row) for row in rows)


def test_a_part_that_nobody_annotated(source, refused):
    rewritten(source, lambda row: {"annotation": ""} if row["split"] == "val" else {})
    line = refused("--set", "evaluation.part=val", leaves=WHOLE)
    assert "dataset 'tiny': evaluation.part: none of the 2 patients of part 'val' is annotated" in line
    assert "set evaluation.part=test" in line


def test_a_method_of_diagnoses_without_one(source, refused):
    rewritten(source, lambda row: {"diagnosis": ""})
    line = refused(method="complementary", leaves=WHOLE)
    assert "dataset 'tiny': method 'complementary' learns from diagnoses" in line
    assert "column 'diagnosis'" in line


def test_a_method_of_tags_without_one(source, refused):
    rewritten(source, lambda row: {"annotation": ""} if row["split"] == "train" else {})
    line = refused("--budget", "minutes:60", method="multilayer_pseudo", leaves=WHOLE)
    assert "dataset 'tiny': method 'multilayer_pseudo' learns from tags" in line


def test_a_budget_too_small_to_hold_patients_out(refused):
    line = refused("--budget", "masks:1p", "--set", "training.selection_share=0.5", leaves=WHOLE)
    assert "holds out one in 2 patients" in line


def test_costs_that_are_none(source, refused):
    path = source / "dataset.yaml"
    whole = path.read_text()
    path.write_text(whole + "costs: {opening_minutes_per_slide: -1}\n")
    line = refused()
    assert (
        "dataset.yaml: key 'costs': Value error, opening_minutes_per_slide is -1; a label costs 0 minutes or more"
        in line
    )


def test_a_store_that_was_never_sealed(command, home, source, refused):
    (home / "data" / "tiny" / "store.zarr" / "slides").mkdir(parents=True)
    assert "this store was never sealed; delete it" in refused(leaves=("data/tiny/store.zarr",))


def test_an_edited_split(command, home, source, refused):
    assert command("data", "ingest", "folder", "--data-root", source, "--home", home).code == 0
    path = home / "data" / "tiny" / "split.json"
    path.write_text(path.read_text().replace("case00", "case99"))
    assert "split.json: was edited by hand" in refused(leaves=WHOLE)


def test_debug_shows_the_trace(monkeypatch, command):
    from tissuebench.errors import TissueBenchError

    monkeypatch.setattr(sys, "argv", ["tissuebench", "--debug", "run", "--method", "complementry"])
    with pytest.raises(TissueBenchError, match="complementry"):
        main()


def test_the_installed_command(tmp_path):
    """The same, once, as a process of its own."""
    program = Path(sys.executable).with_name("tissuebench")
    assert program.is_file(), "install the package first: pip install -e ."
    ran = subprocess.run([program, "runn"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("tissuebench: unknown command 'runn': did you mean 'run'?")
    assert ran.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_does_not_exist(refused):
    line = refused("--tracking", "comet")
    assert "plan smoke: key 'tracking.0': Input should be 'wandb' or 'tensorboard'" in line


def test_tensorboard_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setattr("tissuebench.bench.find_spec", lambda name: None)
    line = refused("--tracking", "wandb,tensorboard")
    assert line.endswith("tracking: tensorboard is not installed: pip install 'tissuebench[tensorboard]'")


def test_no_tracking_at_all_is_a_plan_like_any_other(command, home, source):
    ran = command("plan", "show", "--dataset", "folder", "--data-root", source, "--home", home, "--tracking", "none")
    assert ran.code == 0
