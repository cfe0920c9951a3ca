"""W&B, offline first: one run a trial, published once, and never a reason for a run to fail."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from tissuebench.results.leaderboard import build
from tissuebench.results.schema import TrialResult
from tissuebench.tracking import publish

CLASSES = ("glass", "tumour_a", "tumour_b")


def result(number: int, method: str = "supervised") -> TrialResult:
    rng = np.random.default_rng(number)
    return TrialResult(
        trial_id=f"{number:016x}",
        dataset="tiny",
        method=method,
        budget="masks:3p",
        minutes=6.0,
        replicate=0,
        seed=number % 3,
        classes=CLASSES,
        diagnoses={"A": ("tumour_a",), "B": ("tumour_b",)},
        patient_ids=("p1", "p2"),
        slide_ids=("s1", "s2"),
        slide_diagnoses=("A", "B"),
        counts=rng.integers(1, 50, (2, 3, 3)),
        identity={"split": "x", "config": {"gamma": 2.0}},
        environment={},
        seconds={"fit": 1.0},
        compute={"steps": 10, "samples": 80},
    )


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    trials = tmp_path / "trials"
    for number in range(3):
        (trials / f"{number:016x}").mkdir(parents=True)
        (trials / f"{number:016x}" / "history.jsonl").write_text(
            '{"step": 10, "loss": 1.5}\n{"step": 20, "loss": 0.5}\n'
        )
    return tmp_path / "runs", trials


def offline_runs(folder):
    return sorted(path.name.rsplit("-", 1)[-1] for path in (folder / "wandb").glob("offline-run-*"))


def test_each_trial_and_the_table_are_published_once(folders):
    folder, trials = folders
    results = [result(number) for number in range(3)]
    said = publish(results, build(results), folder, trials, "k" * 64)
    assert "offline" in said
    runs = [path.name for path in (folder / "wandb").glob("offline-run-*")]
    assert len(runs) == 4
    for one in results:
        assert sum(name.endswith(one.trial_id) for name in runs) == 1
    assert sum("leaderboard-" in name for name in runs) == 1
    publish(results, build(results), folder, trials, "k" * 64)
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 4
    assert len(json.loads((folder / "published.json").read_text())) == 4


def test_what_was_published_holds_config_scores_and_the_curve(folders):
    folder, trials = folders
    one = result(1)
    publish([one], build([one]), folder, trials, "k" * 64)
    (path,) = (folder / "wandb").glob(f"offline-run-*{one.trial_id}")
    command = [
        shutil.which("wandb", path=str(sys.prefix) + "/bin") or "wandb",
        "leet",
        "inspect",
        "--summary",
        "--json",
        str(path),
    ]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    text = json.dumps(shown)
    board = build([one], n_boot=2)
    miou = next(row.mean for row in board.rows if row.metric == "miou")
    assert f"{miou:.6f}"[:6] in text
    assert "gamma" in text
    assert "train/loss" in text


def test_a_server_that_is_not_there_costs_seconds_and_no_number(folders, monkeypatch):
    folder, trials = folders
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    results = [result(0)]
    assert "offline" in publish(results, build(results), folder, trials, "k" * 64)


def test_a_server_that_never_answers_costs_seconds(folders, monkeypatch):
    folder, trials = folders
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        started = time.monotonic()
        assert "offline" in publish([result(0)], build([result(0)]), folder, trials, "k" * 64)
        assert time.monotonic() - started < 60


@pytest.fixture
def wandb_server(shared_data, tmp_path):
    script = shared_data.parent / "tools" / "wandb_fake_server.py"
    if not script.is_file():
        pytest.skip(f"no stand-in for the W&B server at {script}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(script), str(port), str(tmp_path / "state.json")])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{url}/__state", timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_online_each_trial_is_one_run_with_its_id(folders, wandb_server, monkeypatch):
    folder, trials = folders
    monkeypatch.setenv("WANDB_BASE_URL", wandb_server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    results = [result(number) for number in range(2)]
    for _ in range(2):
        assert "online" in publish(results, build(results), folder, trials, "k" * 64)
    state = json.loads(urllib.request.urlopen(f"{wandb_server}/__state", timeout=5).read())
    assert set(state["runs"]) == {results[0].trial_id, results[1].trial_id, "leaderboard-" + "k" * 16}


def test_switched_off_writes_nothing(folders, monkeypatch):
    folder, trials = folders
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "switched off" in publish([result(0)], build([result(0)]), folder, trials, "k" * 64)
    assert not folder.exists()
