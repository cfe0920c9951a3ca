"""Whole sweeps on W&B while they train: real methods, workers and runners, and a stand-in for the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.benchmark.tracking.published import KEY, SECONDS, wait_until
from tests.wandb_server import WandbServer
from tissuebench.results.records.curves import read_curves

PLUGIN = Path(__file__).resolve().parents[2] / "plugin"
STAGES = ("pretrain_of_a_test", "cam_of_a_test")


@pytest.fixture
def environment(tmp_path):
    """Of a command that knows no W&B account but that of a server."""

    def of(server: WandbServer) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        account = {"HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path / "config"), "NETRC": str(tmp_path / "none")}
        account |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
        return {**kept, **account, "PYTHONPATH": str(PLUGIN), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    return of


def points(server: WandbServer, name: str, axis: str, method: str = "supervised") -> list[tuple[object, object]]:
    """One curve of the only trial of a method on ``masks:2p``, in the order of its lines."""
    wanted = (method, "masks:2p")
    runs = [run for run in server.runs.values() if (run.config.get("method"), run.config.get("budget")) == wanted]
    history = runs[0].history if runs else {}
    rows = [history[offset] for offset in sorted(history)]
    return [(row[axis], row[name]) for row in rows if name in row]


@pytest.mark.slow
def test_curves_of_a_method_are_everywhere_while_it_trains_and_each_step_once_after_two_kills(bench, environment):
    """Three numbers that a method logs: in the file, on W&B, in TensorBoard and in the report; with kill -9 of all."""
    steps = 160
    selected = ("--method", "talkative", "--budget", "masks:2p", "--seed", "0", "--slots", "1")
    settings = ("--set", f"training.steps={steps}", "--set", "compute.checkpoint_minutes=0.03")
    command = bench.command(*selected, "--tracking", "wandb,tensorboard", *settings)
    axis = "train/step"
    with WandbServer() as server:
        for _ in range(2):
            before = len(points(server, "loss/contrast", axis, "talkative"))
            runner = subprocess.Popen(
                command, env=environment(server), stderr=subprocess.DEVNULL, start_new_session=True
            )
            wait_until(
                lambda least=before + 2: len(points(server, "loss/contrast", axis, "talkative")) >= least,
                "the curve does not grow",
            )
            ((run_id, run),) = server.runs.items()
            folder = bench.home / "runs" / "trials" / run_id
            assert run.exit_code is None
            assert not (folder / "fitted.pt").exists()
            assert {"loss/contrast", "counted", "train/gradient_norm"} <= set(read_curves(folder))
            os.killpg(runner.pid, signal.SIGKILL)
            runner.wait()
            time.sleep(1.0)
        ended = subprocess.run(command, env=environment(server), capture_output=True, text=True, timeout=SECONDS * 3)
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert "1 run and the leaderboard are on W&B" in ended.stderr
        assert server.unknown == []

    curves = read_curves(folder)
    assert curves["counted"] == tuple((step, float(step)) for step in (1, *range(10, steps + 1, 10)))
    assert curves["now_and_then"] == tuple((step, float(step)) for step in range(40, steps + 1, 40))
    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0}).Reload()
    for name, of_metric in curves.items():
        assert points(server, name, axis, "talkative") == list(of_metric)
        assert [event.step for event in events.Scalars(name)] == [step for step, _ in of_metric]
    assert run.exit_code == 0
    assert "test/miou" in run.summary
    journal = [json.loads(line)["event"] for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert journal.count("started") == 3
    report = [command[0], "-P", "-m", "tissuebench", "results", "report", "--home", str(bench.home)]
    subprocess.run(report, env=environment(server), check=True, capture_output=True)
    page = (bench.home / "runs" / "report" / "index.html").read_text()
    assert all(name in page for name in ("train/loss", "loss/contrast", "counted", "now_and_then"))


@pytest.mark.slow
def test_curves_of_stages_are_in_the_run_of_their_trial(bench, environment):
    options = ("--method", "staged", "--budget", "masks:2p", "--seed", "0")
    with WandbServer() as server:
        command = bench.command(*options)
        ended = subprocess.run(command, env=environment(server), capture_output=True, text=True, timeout=SECONDS * 2)
        assert ended.returncode == 0, ended.stderr[-2000:]
        (run_id,) = [run_id for run_id, run in server.runs.items() if run.config.get("method") == "staged"]
        folder = bench.home / "runs" / "trials" / run_id
        needs = json.loads((folder / "job.json").read_text())["document"]["needs"]
        for stage in STAGES:
            for name, kept in read_curves(bench.home / "runs" / "stages" / needs[stage]).items():
                assert points(server, f"{stage}/{name}", f"{stage}/step", "staged") == list(kept)
        assert points(server, "train/loss", "train/step", "staged") == list(read_curves(folder)["train/loss"])
        history = server.runs[run_id].history
        lines = [history[offset]["_step"] for offset in sorted(history)]
        assert lines == sorted(set(lines))


@pytest.mark.slow
def test_a_method_that_raises_is_a_failed_run_with_the_end_of_its_log(bench, environment):
    options = ("--method", "raising", "--budget", "masks:2p", "--seed", "0")
    with WandbServer() as server:
        for _ in range(2):  # the second time it is skipped
            ended = subprocess.run(
                bench.command(*options), env=environment(server), capture_output=True, text=True, timeout=SECONDS
            )
            assert ended.returncode == 3, ended.stderr[-2000:]
            assert "1 run is on W&B, in project tissuebench" in ended.stderr
            ((run_id, run),) = server.runs.items()
            assert (run.exit_code, run.summary["failure"]) == (1, "RuntimeError: no more of this")
            (log,) = [data for name, data in server.uploads.items() if name.endswith("end_of_log.txt")]
            assert "Traceback (most recent call last)" in log.decode()
            kept = read_curves(bench.home / "runs" / "trials" / run_id)["train/loss"]
            assert points(server, "train/loss", "train/step", "raising") == list(kept)


@pytest.mark.slow
def test_a_plan_that_does_not_name_it_sends_nothing(bench, environment):
    options = ("--method", "supervised", "--budget", "masks:2p", "--seed", "0", "--set", "tracking=[]")
    with WandbServer() as server:
        command = bench.command(*options)
        ended = subprocess.run(command, env=environment(server), capture_output=True, text=True, timeout=SECONDS)
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert "W&B is off (not in 'tracking'): nothing is logged there" in ended.stderr
        assert not server.operations
        assert not (bench.home / "runs" / "wandb").exists()
