"""``tissuebench status``: from files alone, while the sweep runs and afterwards."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.benchmark.sweeps import ended_sweep
from tissuebench.cli.main import cli
from tissuebench.sweep.graph import build_graph
from tissuebench.sweep.jobs import State, TaskKind
from tissuebench.sweep.state.folders import task_folder
from tissuebench.sweep.state.leases import Lease, acquire
from tissuebench.sweep.state.record import latest_sweep, write_sweep
from tissuebench.sweep.view.status import SweepReader, render


@pytest.fixture
def ended(bench):
    return bench.home, ended_sweep(bench)


def invoke(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def test_an_ended_sweep(ended):
    home, graph = ended
    said = json.loads(invoke("status", "--home", home, "--json"))
    assert said["title"] == "tiny on tiny"
    assert said["counts"] == {"waiting": 0, "running": 0, "done": 1, "failed": 1, "skipped": 0}
    assert said["steps"] == {"done": 2, "total": 4}
    assert said["eta_seconds"] is None
    assert [task["key"] for task in said["tasks"]] == list(graph)
    by_state = {task["state"]: task for task in said["tasks"]}
    assert by_state["failed"]["reason"] == "RuntimeError: no [luck]"
    assert by_state["done"]["seconds"] > 0
    assert by_state["done"]["title"] == "supervised masks:2p draw 0 seed 0"
    text = invoke("status", said["sweep"][:6], "--home", home)
    assert "1 done, 1 failed; step 2/4" in text
    assert "FAILED: RuntimeError: no [luck]" in text.replace("\n", " ")
    assert invoke("status", "--home", home, "--watch").count("1 failed") == 1  # over, so it does not wait


def printed(shown):
    console = Console(file=io.StringIO(), width=140)
    console.print(shown)
    return console.file.getvalue()


def test_running_waiting_and_silent(bench):
    graph = build_graph(bench.trials(bench.plan(), "supervised"), bench.data, bench.home)
    write_sweep(bench.home, graph, "tiny")
    reader = SweepReader(bench.home, latest_sweep(bench.home))
    assert reader.read().counts[State.WAITING] == len(graph) == 4
    assert "no task is running" in reader.read().summary
    folder = task_folder(bench.home, TaskKind.TRIAL, next(iter(graph)))
    folder.mkdir(parents=True)
    lease = acquire(folder, lambda: None)
    assert isinstance(lease, Lease)
    facts = {
        "phase": "training",
        "done": 3,
        "total": 6,
        "first": 0,
        "count": 3,
        "rate": 0.5,
        "memory": 1,
        "peak_memory": 1,
    }
    path = folder / "progress.json"
    path.write_text(json.dumps({**facts, "gpu_memory": 0, "time": time.time()}))
    status = reader.read()
    running = status.tasks[0]
    assert running.state is State.RUNNING
    assert running.holder.startswith("process ")
    assert running.reason == ""
    assert status.steps == (3, 24)
    assert status.eta_seconds == pytest.approx(6 + 3 * 12)
    assert running.loss is None
    (folder / "metrics.csv").write_text("step,train/loss\n1,2.5\n2,0.1234\n3,0.0")
    assert json.loads(reader.read().to_json())["tasks"][0]["loss"] == 0.1234
    assert "0.123" in printed(render(reader.read()))
    path.write_text(json.dumps({**facts, "gpu_memory": 0, "time": time.time() - 200}))
    assert reader.read().tasks[0].reason.startswith("no heartbeat for 3:2")
    lease.release()
    assert reader.read().tasks[0].state is State.WAITING


def test_what_needs_a_failed_task_is_skipped_and_what_nobody_needs_is_done(bench):
    frozen = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", *frozen)
    graph = build_graph(bench.trials(plan, "supervised", "complementary"), bench.data, bench.home)
    shard, windows = graph.of_kind(TaskKind.FEATURES)
    write_sweep(bench.home, graph, "tiny")
    reader = SweepReader(bench.home, latest_sweep(bench.home))
    folder = task_folder(bench.home, TaskKind.FEATURES, shard.key)
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps({"reason": "OSError: full", "traceback": "", "skipped": False}))
    status = reader.read()
    assert status.counts[State.FAILED] == 1
    assert status.counts[State.SKIPPED] == 2
    assert not status.is_over  # features of windows can still be computed
    (task_folder(bench.home, TaskKind.FEATURES, windows.key)).mkdir()
    (task_folder(bench.home, TaskKind.FEATURES, windows.key) / "record.json").write_text("{}")
    status = reader.read()
    assert status.is_over
    assert status.tasks[2].reason == f"not run: {shard.job.title} failed (OSError: full)"
    (folder / "failure.json").unlink()
    results = bench.home / "runs" / "results"
    results.mkdir()
    for task in graph.of_kind(TaskKind.TRIAL):
        (results / f"{task.key}.parquet").write_text("")
    assert reader.read().counts == {**dict.fromkeys(status.counts, 0), State.DONE: 4}


def test_a_sweep_that_runs_is_seen_from_outside_without_torch(bench, quiet_environment):
    command = bench.command(
        "--method", "supervised", "--seed", "0", "--budget", "masks:2p", "--set", "training.steps=2000"
    )
    code = (
        "import sys\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    look = [sys.executable, "-P", "-c", code, "status", "--home", str(bench.home), "--json"]
    process = subprocess.Popen(command, env=quiet_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while True:
            assert time.monotonic() < deadline
            assert process.poll() is None
            if not (bench.home / "runs" / "sweeps").is_dir():
                time.sleep(0.2)
                continue
            seen = subprocess.run(look, env=quiet_environment, capture_output=True, text=True, timeout=100)
            assert seen.returncode == 0, seen.stderr
            said = json.loads(seen.stdout)
            running = [task for task in said["tasks"] if task["phase"] == "training" and task["done"] > 0]
            if running and said["eta_seconds"]:
                break
    finally:
        process.terminate()
        process.wait()
    assert running[0]["state"] == "running"
    assert 0 < running[0]["done"] < running[0]["total"] == 2000
    assert running[0]["rate"] > 0
    assert running[0]["holder"].startswith("process ")
    assert running[0]["seconds"] > 0
    assert 0 < said["steps"]["done"] < said["steps"]["total"] == 4000
    assert said["counts"]["running"] >= 1
    paused = json.loads(invoke("status", "--home", bench.home, "--json"))
    assert paused["counts"] == {"waiting": 2, "running": 0, "done": 0, "failed": 0, "skipped": 0}


def test_watching_is_ended_by_ctrl_c(bench, quiet_environment):
    graph = build_graph(bench.trials(bench.plan(), "supervised"), bench.data, bench.home)
    write_sweep(bench.home, graph, "tiny")
    command = [sys.executable, "-P", "-m", "tissuebench", "status", "--watch", "--home", str(bench.home)]
    process = subprocess.Popen(
        command, env=quiet_environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert "4 waiting" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_no_sweep_is_one_line(tmp_path, monkeypatch, capsys):
    from tissuebench.cli.main import main

    monkeypatch.setattr("sys.argv", ["tissuebench", "status", "--home", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "start one with 'tissuebench run'" in line
