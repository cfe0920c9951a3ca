"""W&B beside a run: every trial once, whatever the server does, and never a reason to wait or to lose a number.

The real client talks to a stand-in for the server (``tests/wandb_server.py``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.benchmark.tracking.published import CURVE, KEY, SECONDS, Home, new_home, result, wait_until
from tests.wandb_server import Fault, WandbServer
from tissuebench.diagnostics.snapshot_files import picture_of, snapshot_path
from tissuebench.results.records.pseudo_mask_quality import PseudoQuality
from tissuebench.results.tables.leaderboard import LeaderboardRow, build
from tissuebench.sweep.jobs import Job, TaskKind
from tissuebench.tracking.publisher import Publisher

STALL = 4.0  # of a server that fails


@pytest.fixture
def home(tmp_path, monkeypatch):
    yield from new_home(tmp_path, monkeypatch, *map(result, range(3)))


def assert_complete(server, home: Home) -> None:
    """The server has every trial and the table, whole, and nothing else."""
    assert sorted(server.runs) == home.run_ids()
    assert server.unknown == []
    for one in home.results:
        run = server.runs[one.trial_id]
        assert (run.project, run.job_type, run.exit_code) == ("tissuebench", "train", 0)
        assert run.group == f"tiny/{one.method}/masks:3p"[:128]
        assert set(run.tags) == {"tissuebench 9.8.7", "tiny", one.method[:64], "masks:3p", "protocol 7"}
        assert run.config["config"] == {"gamma": 2.0}
        own = {"dataset": "tiny", "method": one.method, "budget": "masks:3p", "minutes": 6, "replicate": 0}
        assert {**own, "seed": one.seed, "comparison": home.board_id.partition("-")[2]}.items() <= run.config.items()
        assert run.summary["train/loss"] == CURVE[20]
        assert run.curve("train/step") == {step: step for step in CURVE}
        assert run.curve("train/loss") == CURVE
        assert len(run.history) == len(CURVE)
        scores = {row.metric: row.mean for row in build([one]).rows if row.mean is not None}
        assert {name: run.summary[f"test/{name}"] for name in scores} == scores
        assert run.summary["compute/steps"] == 10
    board = server.runs[home.board_id]
    rows = build(home.results).rows
    assert (board.group, board.job_type, board.exit_code) == ("tiny/leaderboard", "leaderboard", 0)
    artifact = json.loads(server.uploads["/storage/artifact/leaderboard.table.json"])
    assert artifact["columns"] == list(LeaderboardRow.__dataclass_fields__)
    assert artifact["data"] == [[getattr(row, name) for name in artifact["columns"]] for row in rows]


def test_online_each_trial_is_one_run_however_often_the_command_is_typed(home, connect, monkeypatch):
    home.add(result(3, method=f"supervised[{','.join(f'option_{i}=1' for i in range(20))}]"))
    for name in ("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_SWEEP_ID", "WANDB_TAGS", "WANDB_NAME"):
        monkeypatch.setenv(name, "someone_elses")  # typed within another W&B session
    with WandbServer() as server:
        connect(server.url)
        pattern = "^4 runs and the leaderboard are on W&B, in project tissuebench; the report is at (.*)"
        (where,) = re.findall(pattern, home.publish())
        assert where.startswith(f"{server.url}/local/tissuebench/reports/TissueBench-on-tiny--")
        assert_complete(server, home)
        assert server.keys == {KEY}
        received = server.operations.copy()
        assert "are on W&B" in home.publish()
        assert server.operations == received
        assert home.folders() == home.run_ids()

        home.add(result(4, method="other"))
        assert "5 runs and the leaderboard are on W&B" in home.publish()
        assert_complete(server, home)
        assert all(server.runs[one.trial_id].n_completed == 1 for one in home.results)
        assert all(server.runs[one.trial_id].n_lines == len(CURVE) for one in home.results)


def test_offline_everything_waits_once_and_sync_sends_it_from_any_account(home, connect, tmp_path):
    for _ in range(2):
        said = home.publish()
        assert said.startswith("4 runs for W&B wait in ") and "(no API key: set WANDB_API_KEY): 'wandb sync" in said
        assert home.folders() == home.run_ids()
    shutil.rmtree(tmp_path / "account")  # of a container, or on the task that wrote it
    with WandbServer() as server:
        connect(server.url)
        home.sync()
        assert_complete(server, home)
        received = server.operations.copy()
        assert "; the report is at" in home.publish()
        assert {name: server.operations[name] for name in ("upsertView",)} == {"upsertView": 1}
        assert not {"UpsertBucket", "CreateArtifact", "CreateRunFiles"} & set(server.operations - received)


def test_offline_by_request_asks_no_server(home, connect, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with WandbServer() as server:
        connect(server.url)
        assert "(WANDB_MODE=offline)" in home.publish()
        assert not server.keys
        assert not server.operations


def test_switched_off_writes_nothing_and_starts_nothing(home, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before = sorted(home.path.rglob("*"))
    assert home.publish() == "W&B is off (WANDB_MODE=disabled): nothing is logged there"
    assert sorted(home.path.rglob("*")) == before


def test_a_plan_that_does_not_name_it_starts_nothing(home):
    before = sorted(home.path.rglob("*"))
    with Publisher(home.path, is_wanted=False) as publisher:
        note = home.publish_with(publisher)
    assert note == "W&B is off (not in 'tracking'): nothing is logged there"
    assert sorted(home.path.rglob("*")) == before


def test_a_port_that_refuses(home, connect):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connect(f"http://127.0.0.1:{port}")
    assert (said := home.publish()).startswith("4 runs for W&B wait in ")
    assert "(no answer from 127.0.0.1)" in said
    with WandbServer(port) as server:
        home.sync()
        assert_complete(server, home)


@pytest.mark.parametrize(
    ("fault", "key", "reason"),
    [
        (Fault.SILENT, KEY, "no answer from 127.0.0.1"),
        (Fault.SILENT_TO_POSTS, KEY, f"no answer for {STALL:g} s"),
        (Fault.UNAUTHORISED, KEY, "the server or the key was refused"),
        (Fault.NONE, "feedc0de", "the API key is malformed"),
    ],
)
def test_a_server_that_fails_costs_seconds_once_and_no_run(home, connect, fault, key, reason):
    with WandbServer(fault=fault) as server:
        connect(server.url, key)
        said = home.publish(STALL)
        assert said.startswith("4 runs for W&B wait in ") and f"({reason})" in said
        assert server.runs == {}
    written = [path.read_bytes() for path in home.path.parent.rglob("*") if path.is_file()]
    assert not any(key.encode() in text for text in [said.encode(), *written])
    with WandbServer(server.port) as server:
        connect(server.url)
        home.sync()
        assert_complete(server, home)


LAST_REQUESTS = [pytest.param(n, marks=() if n == 11 else pytest.mark.slow) for n in range(2, 36, 3)]


@pytest.mark.parametrize("dies_after", LAST_REQUESTS)
def test_a_server_that_dies_in_the_middle_is_completed_later(home, connect, dies_after):
    with WandbServer(dies_after=dies_after) as server:
        connect(server.url)
        assert f"(no answer for {STALL:g} s)" in home.publish(STALL)
        assert server.closed.is_set()
    with WandbServer(server.port, keeps=server) as server:
        again = Home.sync if dies_after % 2 else Home.publish
        again(home)
        assert_complete(server, home)
    assert home.folders() == home.run_ids()


def test_after_a_failure_no_trial_asks_the_server_again(home, connect):
    with WandbServer(fault=Fault.UNAUTHORISED) as server:
        connect(server.url)
        with Publisher(home.path) as publisher:
            publisher.trial(home.results[0].trial_id)
            wait_until(lambda: server.n_refused == 1, "nothing was sent")
            assert home.publish_with(publisher).startswith("4 runs for W&B wait in ")
        assert server.n_refused == 1


def process_of(home: Home, command: str) -> int:
    def found() -> list[int]:
        return [pid for pid, text in home.processes().items() if command in text]

    wait_until(found, f"no process {command!r}")
    return found()[0]


def child_of(home: Home) -> int:
    return process_of(home, "tissuebench.tracking.publisher")


def test_a_child_that_hangs_is_noticed_by_nobody_and_loses_nothing(home):
    with Publisher(home.path) as publisher:
        os.kill(child_of(home), signal.SIGSTOP)
        tells = threading.Thread(target=lambda: [publisher.trial("0" * 16) for _ in range(20_000)], daemon=True)
        tells.start()  # more than any pipe holds
        tells.join(SECONDS)
        assert not tells.is_alive()
        assert "(not finished within 0.1 s); nothing is lost" in publisher.close(0.1)
    assert "4 runs for W&B wait in " in home.publish()


@pytest.mark.parametrize("seconds", [SECONDS, 0.1])
def test_nothing_stays_in_the_temporary_folder(home, tmp_path, monkeypatch, seconds):
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    with Publisher(home.path) as publisher:
        publisher.trial(home.results[0].trial_id)
        wait_until(lambda: (home.runs / "published.json").exists(), "the first trial was not published")
        assert any("wandb" in path.name for path in folder.rglob("*"))
        publisher.close(seconds)
    assert not list(folder.iterdir())


def test_a_child_that_is_killed_loses_nothing(home):
    with Publisher(home.path) as publisher:
        publisher.trial(home.results[0].trial_id)
        wait_until(lambda: (home.runs / "published.json").exists(), "the first trial was not published")
        os.kill(child_of(home), signal.SIGKILL)
        assert "(its process exited early); nothing is lost" in home.publish_with(publisher)
    half = home.runs / "wandb" / f"offline-run-20260101_000000-{home.results[1].trial_id}"
    half.mkdir()
    (half / f"run-{home.results[1].trial_id}.wandb").write_bytes(b":W&B")
    assert "4 runs for W&B wait in " in home.publish()
    assert home.folders() == home.run_ids()
    assert not half.exists()


def test_the_child_is_polite_and_deaf_to_ctrl_c(home):
    with Publisher(home.path) as publisher:
        child = child_of(home)
        wait_until(
            lambda: os.getpriority(os.PRIO_PROCESS, child) == os.getpriority(os.PRIO_PROCESS, 0) + 10,
            "not at low priority",
        )
        assert os.getpgid(child) != os.getpgid(0)
        os.kill(child, signal.SIGINT)
        assert home.publish_with(publisher).startswith("4 runs for W&B wait in ")


def test_the_child_ends_with_its_parent_in_the_middle_of_anything(home, connect):
    script = (
        "import sys, time; from pathlib import Path; from tissuebench.tracking.publisher import Publisher\n"
        "publisher = Publisher(Path(sys.argv[1]), stall_seconds=1e6)\n"
        "publisher.trial(sys.argv[2]); time.sleep(1e6)"
    )
    with WandbServer(fault=Fault.SILENT_TO_POSTS) as server:
        connect(server.url)
        command = [sys.executable, "-P", "-c", script, str(home.path), home.results[0].trial_id]
        parent = subprocess.Popen(command)
        try:
            sync = process_of(home, "wandb sync")
            # Through the child's own service what it was told would go on after it was ended.
            assert b"WANDB_SERVICE" not in Path(f"/proc/{sync}/environ").read_bytes()
        finally:
            parent.kill()
            parent.wait()
        wait_until(lambda: not home.processes(), "outlived its parent")


def test_a_damaged_result_costs_its_own_run_only(home):
    damaged = home.store.path(home.results[1].trial_id)
    damaged.write_bytes(b"PAR1")
    said = home.publish()
    assert "3 runs for W&B wait in " in said
    assert f"1 could not be written, among them {damaged.stem}" in said
    assert damaged.stem not in home.folders()


def test_a_damaged_memory_is_named(home):
    (home.runs / "published.json").write_text("{")
    assert "published.json: damaged" in home.publish()


def test_two_runs_at_once_write_each_trial_once(home):
    with Publisher(home.path) as one, Publisher(home.path) as other:
        for publisher in (one, other):
            publisher.board(build(home.results).rows, [trial.trial_id for trial in home.results])
        for publisher in (one, other):
            assert "4 runs for W&B wait in " in publisher.close(SECONDS)
    assert home.folders() == home.run_ids()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("tracker", {"torch", "lightning", "zarr", "pandas"}), ("publisher", {"torch", "lightning", "wandb"})],
)
def test_publishing_imports_nothing_heavy(module, heavy):
    script = f"import sys, tissuebench.tracking.{module}; print(sorted({heavy!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_pseudo_masks_and_looks_go_with_their_trial_numbers_and_pictures(home, connect):
    """Scores of pseudo-masks are of training tiles: not under ``test/``, and the curve stays as it is.

    Of the looks it is the last, and the figures that the trial has kept.
    """
    quality = PseudoQuality(("sure", "a/b [c]"), np.ones((2, 3, 3), np.int64), annotated=36, n_tiles=2)
    compute = {"steps": 10, "waiting": 0.25, "probe_miou/cam": 0.5}
    trial = replace(result(9, method="weak"), pseudo_masks={"cam": quality}, compute=compute)
    home.add(trial)
    stage = home.runs / "stages" / "feedfacefeedface"
    stage.mkdir(parents=True)
    Image.new("RGB", (40, 30), (1, 2, 3)).save(stage / "pseudo_masks.png")
    for step, width in ((0, 10), (20, 50), (10, 20)):
        path = snapshot_path(stage, step)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"step": step, "loss": 1.0}))
        Image.new("RGB", (width, 60)).save(picture_of(path))
    document = {"needs": {"cam": stage.name, "other": "0" * 16}, "features": []}
    job = Job(trial.trial_id, TaskKind.TRIAL, "weak", home.path, document)
    (home.runs / "trials" / trial.trial_id / "job.json").write_text(job.to_json())
    assert "5 runs for W&B wait in " in home.publish()
    with WandbServer() as server:
        connect(server.url)
        home.sync()
        run = server.runs[trial.trial_id]
        assert run.summary["pseudo_miou/sure"] == pytest.approx(1 / 5)
        assert run.summary["pseudo_coverage/a/b [c]"] == pytest.approx(1 / 4)
        assert not [name for name in run.summary if name.startswith("test/pseudo")]
        assert "test/miou" in run.summary
        assert run.curve("train/loss") == CURVE
        (shown,) = run.curve("pseudo_masks/cam").values()
        assert (shown["_type"], shown["width"], shown["height"]) == ("image-file", 40, 30)
        (upload,) = [data for name, data in server.uploads.items() if name.endswith(shown["path"])]
        assert upload == (stage / "pseudo_masks.png").read_bytes()
        (shown,) = run.curve("snapshots/cam").values()
        assert (shown["_type"], shown["width"], shown["height"]) == ("image-file", 50, 60)
        assert {"compute/waiting": 0.25, "compute/probe_miou/cam": 0.5}.items() <= run.summary.items()
        board = server.runs[home.board_id]
        assert board.summary["pseudo_miou/sure/weak/masks:3p"] == pytest.approx(1 / 5)
