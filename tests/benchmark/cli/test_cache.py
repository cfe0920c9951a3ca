"""``tissuebench cache``: what lies there, what may be removed, and that a later run computes it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from tests.benchmark.features.shards import FROZEN
from tissuebench.cli.main import cli
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import JOB, RECORD, task_folder
from tissuebench.sweep.state.leases import Lease, acquire
from tissuebench.sweep.state.record import write_sweep

SMALL = (*FROZEN, "seeds=[0]", "budgets=['masks:2p']", "training.steps=2", "training.batch_size=2")


def invoke(*arguments, code=0):
    result = CliRunner().invoke(cli, ["cache", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def listed(home):
    return json.loads(invoke("list", "--json", "--home", home))


@pytest.fixture
def graph(bench):
    """A graph whose shards are laid down by hand, as workers leave them, but small."""
    made = bench.graph(bench.trials(bench.plan(*SMALL), "supervised"))
    for number, task in enumerate(made.of_kind(TaskKind.FEATURES), start=1):
        folder = task_folder(bench.home, TaskKind.FEATURES, task.key)
        folder.mkdir(parents=True)
        (folder / JOB).write_text(task.job.to_json())
        (folder / "maps.float32").write_bytes(bytes(100_000 * number))
        (folder / RECORD).write_text("{}")
        days_ago = time.time() - 10 * number * 86400
        os.utime(folder / RECORD, (days_ago, days_ago))
    return made


def folders(bench):
    return sorted((bench.home / "runs" / "features").iterdir())


def test_what_lies_there_is_listed(bench, graph):
    windows, tiles = listed(bench.home)  # the largest first
    assert (tiles["of"], windows["of"]) == ("tiles", "windows of test")
    for each in (tiles, windows):
        assert (each["dataset"], each["encoder"]) == ("tiny", "tf_efficientnet_lite0")
        assert (each["shards"], each["is_in_use"]) == (1, False)
    (shard, _) = graph.of_kind(TaskKind.FEATURES)
    assert shard.job.document["shard"]["weights"].startswith(tiles["weights"])
    assert tiles["n_bytes"] == sum(
        path.stat().st_size for path in task_folder(bench.home, TaskKind.FEATURES, shard.key).iterdir()
    )
    assert time.time() - tiles["last_used"] == pytest.approx(10 * 86400, abs=60)
    shown = invoke("list", "--home", bench.home)
    assert "tf_efficientnet_lite0" in shown and "windows of test" in shown
    assert shown.splitlines()[-1].endswith("kB in all")


def test_nothing_is_said_to_be_nothing(bench):
    assert listed(bench.home) == []
    assert invoke("list", "--home", bench.home) == "no features are cached\n"
    assert invoke("clear", "--home", bench.home) == "removed 0 shards, 0 kB\n"


def test_all_or_some_are_removed(bench, graph):
    assert json.loads(invoke("clear", "--unused-for", 30, "--json", "--home", bench.home))["shards"] == 0
    assert json.loads(invoke("clear", "--unused-for", 15, "--json", "--home", bench.home))["shards"] == 1
    (left,) = listed(bench.home)
    assert left["of"] == "tiles"
    for option, wrong in (("--encoder", "tf_efficientnet_lite1"), ("--dataset", "Tiny")):
        result = CliRunner().invoke(cli, ["cache", "clear", option, wrong, "--home", str(bench.home)])
        assert f"{option}: unknown name in the cache '{wrong}': did you mean" in str(result.exception)
    assert len(folders(bench)) == 1
    said = invoke("clear", "--encoder", "tf_efficientnet_lite0", "--dataset", "tiny", "--home", bench.home)
    assert said.startswith("removed 1 shard, 1")
    assert folders(bench) == []


def test_what_a_running_task_uses_stays(bench, graph):
    (trial,) = graph.of_kind(TaskKind.TRIAL)
    folder = task_folder(bench.home, TaskKind.TRIAL, trial.key)
    folder.mkdir(parents=True)
    (folder / JOB).write_text(trial.job.to_json())
    lease = acquire(folder, lambda: None)
    assert isinstance(lease, Lease)
    assert all(each["is_in_use"] for each in listed(bench.home))
    assert invoke("clear", "--home", bench.home).startswith("removed 0 shards, 0 kB; 2 shards, 3")
    lease.release()
    assert not any(each["is_in_use"] for each in listed(bench.home))
    assert invoke("clear", "--home", bench.home).startswith("removed 2 shards, 3")
    assert folders(bench) == []


def test_what_a_waiting_task_of_a_running_sweep_needs_stays(bench, graph):
    """One shard is being computed; the other is needed by a trial that has not begun."""
    computed, other = (task_folder(bench.home, TaskKind.FEATURES, t.key) for t in graph.of_kind(TaskKind.FEATURES))
    lease = acquire(computed, lambda: None)
    assert json.loads(invoke("clear", "--json", "--home", bench.home)) | {"n_bytes": 0, "kept_bytes": 0} == {
        "shards": 1, "n_bytes": 0, "kept_shards": 1, "kept_bytes": 0,
    }  # fmt: skip
    other.mkdir()
    (other / JOB).write_text(graph[other.name].job.to_json())
    write_sweep(bench.home, graph, "tiny on tiny")
    assert json.loads(invoke("clear", "--json", "--home", bench.home))["kept_shards"] == 2
    lease.release()


def test_folders_that_no_worker_made_are_left_alone(bench):
    strange = bench.home / "runs" / "features" / "notes"
    strange.mkdir(parents=True)
    (strange / "todo.txt").write_text("mine")
    assert listed(bench.home) == []
    invoke("clear", "--home", bench.home)
    assert (strange / "todo.txt").exists()


def test_a_run_computes_again_what_was_cleared_and_knows_when_it_used_it(bench):
    one, other = bench.trials(bench.plan(*SMALL, "seeds=[0,1]"), "supervised")
    bench.run([one])
    first = {folder.name: (folder / "index.json").read_bytes() for folder in folders(bench)}
    assert len(first) == 2
    for folder in folders(bench):
        os.utime(folder / RECORD, (0, 0))
    assert all(each["last_used"] == 0 for each in listed(bench.home))
    invoke("clear", "--home", bench.home)
    bench.run([other])
    assert {folder.name: (folder / "index.json").read_bytes() for folder in folders(bench)} == first
    assert all(time.time() - each["last_used"] < 600 for each in listed(bench.home))


def test_no_torch_is_imported(bench, graph):
    code = (
        "import sys\n"
        "sys.argv = ['tissuebench', 'cache', *sys.argv[1:]]\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    for command in ("list", "clear"):
        given = [sys.executable, "-P", "-c", code, command, "--home", str(bench.home)]
        done = subprocess.run(given, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
