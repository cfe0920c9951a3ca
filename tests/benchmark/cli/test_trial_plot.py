"""``tissuebench trial plot``, and the last values in ``trial show``: from files alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from tissuebench.cli.main import cli
from tissuebench.errors import DataError, TissueBenchError
from tissuebench.results.records.curves import CURVES_FILE
from tissuebench.sweep.graph import build_graph
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import JOB, task_folder
from tissuebench.sweep.state.record import write_sweep

TEXT = "step,train/loss,train/rate,val/miou\n1,2.5,0.1,\n2,1.25,0.1,0.5\n3,nan,0.1,\n"


@pytest.fixture
def trials(bench):
    """Two trials of one method and one of another that train; nothing has finished."""
    graph = build_graph(bench.trials(bench.plan("seeds=[0,1]"), "supervised", "complementary"), bench.data, bench.home)
    write_sweep(bench.home, graph, "tiny")
    tasks = [task for task in graph.of_kind(TaskKind.TRIAL) if task.trial.budget.spec == "masks:2p"][:3]
    for task in tasks:
        folder = task_folder(bench.home, TaskKind.TRIAL, task.key)
        folder.mkdir(parents=True)
        (folder / JOB).write_text(task.job.to_json())
        (folder / CURVES_FILE).write_text(TEXT)
    return [task.key for task in tasks]


def test_svg_png_and_pdf_of_several_trials_without_torch(bench, trials, tmp_path):
    code = (
        "import sys\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    out = tmp_path / "curves.svg"
    arguments = ["trial", "plot", *(key[:12] for key in trials), trials[0], "--out", out, "--home", bench.home]
    drawn = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=200
    )
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.strip() == str(out)
    text = out.read_text()
    assert all(word in text for word in ("train/loss", "val/miou", "supervised", "complementary"))
    assert "train/rate" not in text
    for name, start in (("curves.png", b"\x89PNG"), ("curves.pdf", b"%PDF")):
        path = tmp_path / name
        result = CliRunner().invoke(cli, ["trial", "plot", trials[0], "--out", str(path), "--home", str(bench.home)])
        assert result.exit_code == 0, result.output
        assert path.read_bytes().startswith(start)
    with Image.open(io.BytesIO((tmp_path / "curves.png").read_bytes())) as picture:
        assert picture.width == 2 * 760
    assert {path.name for path in tmp_path.iterdir()} >= {"curves.svg", "curves.png", "curves.pdf"}


def test_what_cannot_be_drawn_is_one_line_and_writes_nothing(bench, trials, tmp_path):
    def refused(*arguments):
        done = CliRunner().invoke(cli, ["trial", "plot", *map(str, arguments), "--home", str(bench.home)])
        assert isinstance(done.exception, TissueBenchError), done.output
        assert "\n" not in str(done.exception)
        return str(done.exception)

    out = tmp_path / "figures" / "x.svg"
    assert "the folder does not exist" in refused(trials[0], "--out", out)
    assert "ends in .svg, .png, .pdf" in refused(trials[0], "--out", tmp_path / "x.jpg")
    path = task_folder(bench.home, TaskKind.TRIAL, trials[1]) / CURVES_FILE
    path.write_text(TEXT + "much,1\n")
    assert "line 5" in refused(*trials, "--out", tmp_path / "x.svg")
    path.unlink()
    assert f"trial {trials[1]} has no curves" in refused(*trials, "--out", tmp_path / "x.svg")
    path.write_text("step,train/rate\n1,0.5\n")
    assert "neither a loss nor a validation" in refused(trials[1], "--out", tmp_path / "x.svg")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("x.")]


def test_show_has_the_last_values(bench, trials):
    def shown(*arguments):
        done = CliRunner().invoke(cli, ["trial", "show", trials[0], *arguments, "--home", str(bench.home)])
        if done.exception is not None:
            raise done.exception
        return done.stdout

    last = json.loads(shown("--json"))["curves"]
    assert last == {
        "": {
            "train/loss": {"step": 3, "value": None},
            "train/rate": {"step": 3, "value": 0.1},
            "val/miou": {"step": 2, "value": 0.5},
        }
    }
    assert "last values, step 3: train/loss not finite, train/rate 0.1, val/miou 0.5" in shown()
    path = task_folder(bench.home, TaskKind.TRIAL, trials[0]) / CURVES_FILE
    path.unlink()
    assert json.loads(shown("--json"))["curves"] == {}
    path.write_text("step\nx\n")
    with pytest.raises(DataError, match="delete it: no result depends on it"):
        shown()
