"""``tissuebench trial``: one trial, by the beginning of its id."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from tests.benchmark.sweeps import Breaking, ended_sweep, run_inline
from tests.clusters.standin import wait_until
from tissuebench.cli.main import cli, main
from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.graph import build_graph
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import task_folder
from tissuebench.sweep.state.journal import read_journal
from tissuebench.sweep.state.leases import acquire
from tissuebench.sweep.state.record import write_sweep

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")


def invoke(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def refused(monkeypatch, capsys):
    """The one line with which a command ends."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["tissuebench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.fixture
def ended(bench):
    """Home, id of a finished trial and of a failed one."""
    graph = ended_sweep(bench)
    ids = {task.trial.method: task.key for task in graph.values()}
    return bench.home, ids["supervised"], ids["breaking_in_a_test"]


def test_list_of_what_ended(ended):
    home, done, failed = ended
    rows = json.loads(invoke("trial", "list", "--home", home, "--json"))
    assert [(row["trial"], row["method"], row["state"], row["part"]) for row in rows] == [
        (failed, "breaking_in_a_test", "failed", None),
        (done, "supervised", "done", "test"),
    ]
    (result,) = ResultStore(results_folder(home)).load([done])
    assert rows[1]["miou"] == pytest.approx(float(miou(result.counts.sum(0))), abs=1e-6)
    text = invoke(
        "trial", "list", "--home", home, "--method", "supervised", "--budget", "masks:2p", "--dataset", "tiny"
    )
    assert done in text and f"{rows[1]['miou']:.4f}" in text and failed not in text
    assert "no such trial" in invoke("trial", "list", "--home", home, "--budget", "masks:9p")


def test_show_of_a_finished_and_of_a_failed_trial(ended):
    home, done, failed = ended
    (result,) = ResultStore(results_folder(home)).load([done])
    said = json.loads(invoke("trial", "show", done[:7], "--home", home, "--json"))
    assert said["trial"] == done
    assert said["state"] == "done"
    assert said["title"] == "supervised masks:2p draw 0 seed 0"
    assert said["scores"]["miou"] == pytest.approx(float(miou(result.counts.sum(0))), abs=1e-6)
    assert "dice/stroma" in said["scores"]
    assert said["settings"]["training"]["steps"] == 2
    assert said["budget"]["spec"] == "masks:2p"
    assert len(said["budget"]["patients"]) == 2
    assert said["seconds"]["fit"] > 0
    assert said["environment"]["packages"]["torch"]
    assert said["failure"] is None
    assert {path.rsplit("/", 1)[-1] for path in said["files"]} >= {f"{done}.parquet", "metrics.csv", "fitted.pt"}
    text = invoke("trial", "show", done, "--home", home)
    assert "scores.miou" in text
    assert "settings.training.steps" in text

    said = json.loads(invoke("trial", "show", failed[:7], "--home", home, "--json"))
    assert said["state"] == "failed"
    assert said["scores"] is None
    assert said["failure"]["reason"] == "RuntimeError: no [luck]"
    assert "training_step" in said["failure"]["traceback"]
    text = invoke("trial", "show", failed, "--home", home)
    assert "FAILED: RuntimeError: no [luck]" in text
    assert "Traceback" in text


def test_a_trial_that_did_not_start_is_known_by_its_sweep(bench, refused):
    graph = build_graph(bench.trials(bench.plan("seeds=[0]"), "supervised"), bench.data, bench.home)
    write_sweep(bench.home, graph, "tiny")
    first = next(iter(graph))
    said = json.loads(invoke("trial", "show", first, "--home", bench.home, "--json"))
    assert (said["state"], said["title"], said["scores"]) == ("waiting", graph[first].job.title, None)
    assert invoke("trial", "show", first, "--home", bench.home).startswith(first)
    assert "was never started" in refused("trial", "log", first, "--home", bench.home)
    assert "was never started" in refused("trial", "rerun", first, "--home", bench.home, "--executor", "inline")


def test_unknown_and_ambiguous_are_one_line(ended, refused):
    home, done, failed = ended
    assert "no trial 'ffffffffffff'" in refused("trial", "show", "ffffffffffff", "--home", home)
    line = refused("trial", "show", "", "--home", home)
    assert "is ambiguous" in line
    assert done in line
    assert failed in line


def test_show_and_log_do_without_torch(ended):
    home, done, _ = ended
    (task_folder(home, TaskKind.TRIAL, done) / "log.txt").write_text("printed\n")
    code = (
        "import sys\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    for command in (("show", done), ("log", done)):
        arguments = [sys.executable, "-P", "-c", code, "trial", *command, "--home", str(home)]
        looked = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
        assert looked.returncode == 0, looked.stderr
        assert looked.stdout


def test_log_of_trials_and_shared_tasks_and_how_it_is_followed(ended):
    home, _, failed = ended
    folder = task_folder(home, TaskKind.TRIAL, failed)
    (folder / "log.txt").write_text("first line\n")
    assert invoke("trial", "log", failed[:8], "--home", home) == "first line\n"
    lease = acquire(folder, lambda: None)
    said = []
    command = [sys.executable, "-P", "-m", "tissuebench", "trial", "log", failed, "--follow", "--home", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: said.extend(process.stdout), daemon=True).start()
    wait_until(lambda: said == ["first line\n"], "what is there is printed")
    (folder / "failure.json").unlink()
    with (folder / "log.txt").open("a") as file:
        file.write("second line\n")
    wait_until(lambda: said[1:] == ["second line\n"], "what is added is printed")
    assert process.poll() is None
    (folder / "failure.json").write_text(json.dumps({"reason": "x", "traceback": "", "skipped": False}))
    lease.release()
    wait_until(lambda: process.poll() is not None, "it ends with the trial")
    assert process.returncode == 0


def test_rerun_says_whether_the_bits_are_the_same_and_keeps_the_stored_result(ended):
    home, done, _ = ended
    store = ResultStore(results_folder(home))
    before = store.path(done).stat().st_mtime_ns
    journal = read_journal(task_folder(home, TaskKind.TRIAL, done))
    assert "reproduced bit for bit" in invoke("trial", "rerun", done[:6], "--home", home, "--executor", "inline")
    (stored,) = store.load([done])
    counts = stored.counts.copy()
    cells, right = counts[0].reshape(-1), np.eye(len(counts[0]), dtype=bool).reshape(-1)
    most, least = np.where(right, 0, cells).argmax(), np.where(right, cells.max() + 1, cells).argmin()
    cells[most] -= 10  # from one mistake to another: the calibration still holds
    cells[least] += 10
    replace(stored, counts=counts).write(store.path(done))
    changed = store.path(done).read_bytes()
    said = json.loads(invoke("trial", "rerun", done, "--home", home, "--executor", "inline", "--json"))
    assert said["reproduced"] is False
    assert said["differing"] == 10
    assert said["stored"] != said["again"]
    assert store.path(done).read_bytes() == changed
    assert before != store.path(done).stat().st_mtime_ns
    assert read_journal(task_folder(home, TaskKind.TRIAL, done)) == journal
    assert not list((home / "runs" / "reruns").iterdir())


def test_rerun_of_a_failed_trial_keeps_what_came_out(ended, monkeypatch):
    home, _, failed = ended
    store = ResultStore(results_folder(home))
    text = invoke("trial", "rerun", failed, "--home", home, "--executor", "inline", code=3)
    assert "failed this time: RuntimeError: no [luck]" in text
    assert not store.has(failed)
    monkeypatch.setattr(Breaking, "is_mended", True)
    assert "the result is stored" in invoke("trial", "rerun", failed, "--home", home, "--executor", "inline")
    assert store.has(failed)
    assert not store.failure_path(failed).exists()
    said = json.loads(invoke("trial", "show", failed, "--home", home, "--json"))
    assert said["state"] == "done"
    folder = task_folder(home, TaskKind.TRIAL, failed)
    assert not (folder / "failure.json").exists()
    assert (folder / "fitted.pt").is_file()
    assert json.loads((folder / "job.json").read_text())["home"] == str(home.absolute())
    events = [event["event"] for event in read_journal(folder)]
    assert events[:2] == ["started", "failed"]
    assert events[-2:] == ["started", "done"]


def test_rerun_makes_shared_tasks_that_are_missing_for_good(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=2", *FROZEN)
    graph = build_graph(bench.trials(plan, "supervised"), bench.data, bench.home)
    run_inline(graph, bench.home)
    (tiles, windows), (trial,) = graph.of_kind(TaskKind.FEATURES), graph.of_kind(TaskKind.TRIAL)
    files = {
        task_folder(bench.home, TaskKind.FEATURES, task.key) / name: kind
        for task, name, kind in ((tiles, "maps.float16", np.uint16), (windows, "maps.float32", np.uint32))
    }
    maps = {path: np.fromfile(path, kind) for path, kind in files.items()}
    for folder in (path.parent for path in files):
        for path in folder.iterdir():
            path.unlink()
    text = invoke("trial", "rerun", trial.key, "--home", bench.home, "--executor", "inline")
    assert "reproduced bit for bit" in text
    for path, kind in files.items():
        np.testing.assert_array_equal(np.fromfile(path, kind), maps[path])
        assert (path.parent / "record.json").is_file()
