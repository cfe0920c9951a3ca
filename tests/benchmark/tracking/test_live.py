"""Trials on W&B while they train: curves grow, a server may fail at any moment, and in the end each step is there once.

The real client talks to a stand-in for the server; the worker is played by the test, which writes ``metrics.csv``.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmark.tracking.published import KEY, SECONDS, Home, new_home, result, wait_until, write_curve
from tests.wandb_server import Fault, WandbServer
from tissuebench.results.tables.leaderboard import build
from tissuebench.sweep.jobs import Job, State, TaskKind
from tissuebench.sweep.state.failures import forget_failure
from tissuebench.tracking.publisher import Publisher

STALL = 4.0  # of a server that fails
STAGE = {5: 3.0, 10: 2.5}
TRIAL = result(0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a trial that trains, after a stage that has ended."""
    for made in new_home(tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
        stage, trial = made.runs / "stages" / "feedfacefeedface", folder_of(made)
        for folder in (stage, trial):
            folder.mkdir(parents=True)
        write_curve(stage, STAGE)
        job = Job(TRIAL.trial_id, TaskKind.TRIAL, "trial", made.path, {"needs": {"cam": stage.name}, "features": []})
        (trial / "job.json").write_text(job.to_json())
        yield made


def folder_of(home: Home) -> Path:
    return home.runs / "trials" / TRIAL.trial_id


def curve(n_steps: int) -> dict[int, float]:
    return {step: 1.0 / step for step in range(1, n_steps + 1)}


def train(home: Home, n_steps: int) -> None:
    """The worker has logged this many steps."""
    write_curve(folder_of(home), curve(n_steps))


def task() -> SimpleNamespace:
    """The trial as the runner knows it."""
    about = {name: getattr(TRIAL, name) for name in ("dataset", "minutes", "seed")}
    budget = SimpleNamespace(spec=TRIAL.budget, replicate=TRIAL.replicate)
    trial = SimpleNamespace(
        id=TRIAL.trial_id, arm=TRIAL.method, budget=budget, identity=lambda: TRIAL.identity, **about
    )
    return SimpleNamespace(key=trial.id, job=SimpleNamespace(kind=TaskKind.TRIAL), trial=trial)


def finish(home: Home, publisher: Publisher, n_steps: int) -> str:
    """The worker logs its last step and stores the result, the runner hears of it and ends."""
    train(home, n_steps)
    home.store.write(TRIAL)
    publisher.changed(task(), State.DONE)
    return publisher.close(SECONDS)


def fail(home: Home, reason: str = "RuntimeError: no luck") -> None:
    """The worker has recorded a failure."""
    (folder_of(home) / "failure.json").write_text(json.dumps({"reason": reason, "traceback": "", "skipped": False}))


def loss(server: WandbServer) -> dict[int, object]:
    """The curve of the trial itself, by its own step."""
    run = server.runs.get(TRIAL.trial_id)
    rows = list(run.history.values()) if run else []
    return {row["train/step"]: row["train/loss"] for row in rows if "train/loss" in row}


def assert_complete(server: WandbServer, n_steps: int) -> None:
    """The run is over, and has every step once: those of the stage, then its own."""
    run = server.runs[TRIAL.trial_id]
    assert server.unknown == []
    rows = [run.history[offset] for offset in range(len(run.history))]
    stage = [(row["cam/step"], row["cam/train/loss"]) for row in rows[: len(STAGE)]]
    assert stage == list(STAGE.items())
    own = [(row["train/step"], row["train/loss"]) for row in rows[len(STAGE) :]]
    assert own == list(curve(n_steps).items())
    assert [row["_step"] for row in rows] == [*STAGE, *(10 + step for step in curve(n_steps))]
    scores = {row.metric: row.mean for row in build([TRIAL]).rows if row.mean is not None}
    assert {name: run.summary[f"test/{name}"] for name in scores} == scores
    assert run.summary["train/loss"] == 1 / n_steps
    assert run.exit_code == 0
    assert (run.job_type, run.group, run.name) == ("train", "tiny/supervised/masks:3p", "supervised masks:3p r0 s0")
    assert run.config["config"] == {"gamma": 2.0}


def processes(home: Home, command: str) -> list[int]:
    return [pid for pid, text in home.processes().items() if command in text]


def train_and_show(home: Home, server: WandbServer, *n_steps: int) -> None:
    """Train until this many steps, and wait each time until the server has all but the open last one, or is gone."""
    for n in n_steps:
        train(home, n)
        wait_until(lambda least=n - 1: len(loss(server)) >= least or server.closed.is_set(), "the curve does not grow")


def test_the_curves_grow_while_the_trial_trains(home, connect):
    with WandbServer() as server:
        connect(server.url)
        with Publisher(home.path) as publisher:
            publisher.changed(task(), State.RUNNING)
            wait_until(lambda: processes(home, "tissuebench.tracking.live_process"), "nothing follows the trial")
            assert TRIAL.trial_id not in server.runs  # it has no values yet
            train_and_show(home, server, 2, 4)
            run = server.runs[TRIAL.trial_id]
            assert (run.n_completed, run.exit_code) == (0, None)
            name, group, config = run.name, run.group, run.config
            metrics = [metric["1"] for metric in config["_wandb"]["m"]]
            axes = {metric["1"]: metrics[metric["5"] - 1] for metric in config["_wandb"]["m"] if "5" in metric}
            assert axes == {"train/loss": "train/step", "cam/train/loss": "cam/step"}
            assert finish(home, publisher, 6) == "1 run is on W&B, in project tissuebench"
        assert_complete(server, 6)
        assert (run.name, run.group) == (name, group)
        own = set(config) - {"_wandb"}
        assert own == set(run.config) - {"_wandb"} and all(run.config[key] == config[key] for key in own)


@pytest.mark.slow
def test_a_command_killed_twice_continues_the_run(home, connect):
    """A worker that continues from a checkpoint has cut its curve back, and some steps are trained again."""
    script = (
        "import sys, time; from pathlib import Path; from tests.benchmark.tracking.test_live import *\n"
        "publisher = Publisher(Path(sys.argv[1])); publisher.changed(task(), State.RUNNING); time.sleep(1e6)"
    )
    with WandbServer() as server:
        connect(server.url)
        for before, after in ((0, 5), (3, 9)):
            train(home, before)
            command = subprocess.Popen([sys.executable, "-c", script, str(home.path)])
            try:
                train_and_show(home, server, before + 3, after)
            finally:
                command.kill()
                command.wait()
            wait_until(lambda: not home.processes(), "outlived its parent")
            assert server.runs[TRIAL.trial_id].exit_code is None
            assert len(server.runs[TRIAL.trial_id].history) == len(loss(server)) + len(STAGE)
        train(home, 7)
        with Publisher(home.path) as publisher:
            publisher.changed(task(), State.RUNNING)
            train_and_show(home, server, 10)
            finish(home, publisher, 12)
        assert_complete(server, 12)


@pytest.mark.slow
@pytest.mark.parametrize("dies_after", range(1, 35))
def test_a_server_that_dies_at_any_moment_is_completed_later(home, connect, dies_after):
    with WandbServer(dies_after=dies_after) as server:
        connect(server.url)
        with Publisher(home.path, stall_seconds=STALL) as publisher:
            publisher.changed(task(), State.RUNNING)
            train_and_show(home, server, 2, 5)
            said = finish(home, publisher, 6)
        assert server.closed.is_set() == said.startswith("1 run for W&B waits in ")
    with WandbServer(server.port, keeps=server) as server:
        if dies_after % 2:
            home.sync()
        else:
            with Publisher(home.path) as publisher:
                publisher.trial(TRIAL.trial_id)
                assert publisher.close(SECONDS) == "1 run is on W&B, in project tissuebench"
        assert_complete(server, 6)
    assert home.folders() == [TRIAL.trial_id]


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", range(1, 35))
def test_a_publisher_killed_at_any_request_is_completed_later(home, connect, killed_at):
    with WandbServer() as server:
        connect(server.url)
        with Publisher(home.path) as publisher:
            wait_until(lambda: processes(home, "tissuebench.tracking.publisher"), "no publisher")
            (child,) = processes(home, "tissuebench.tracking.publisher")
            server.at_request(killed_at, lambda: os.kill(child, signal.SIGKILL))
            publisher.changed(task(), State.RUNNING)
            for n in (2, 5):
                train(home, n)
                wait_until(
                    lambda least=n - 1: len(loss(server)) >= least or server.n_requests >= killed_at,
                    "the curve does not grow",
                )
            finish(home, publisher, 6)
        wait_until(lambda: not home.processes(), "outlived its parent")
        with Publisher(home.path) as publisher:
            publisher.trial(TRIAL.trial_id)
            assert publisher.close(SECONDS) == "1 run is on W&B, in project tissuebench"
        assert_complete(server, 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.SILENT_TO_POSTS, f"no answer for {STALL:g} s"),
        (Fault.UNAUTHORISED, "the server or the key was refused"),
    ],
)
def test_a_server_that_fails_from_the_start_delays_the_end_only(home, connect, fault, reason):
    with WandbServer(fault=fault) as server:
        connect(server.url)
        with Publisher(home.path, stall_seconds=STALL) as publisher:
            publisher.changed(task(), State.RUNNING)
            train(home, 3)
            wait_until(lambda: server.n_posts, "nothing was sent")
            began = time.monotonic()
            assert f"({reason})" in finish(home, publisher, 6)
            assert time.monotonic() - began < 4 * STALL
        assert server.runs == {}
    with WandbServer(server.port) as server:
        home.sync()
        assert_complete(server, 6)


@pytest.mark.slow
def test_a_server_that_stalls_in_the_middle(home, connect):
    with WandbServer() as server:
        connect(server.url)
        with Publisher(home.path, stall_seconds=STALL) as publisher:
            publisher.changed(task(), State.RUNNING)
            train_and_show(home, server, 3)
            server.fault = Fault.SILENT_TO_POSTS
            assert f"(no answer for {STALL:g} s)" in finish(home, publisher, 6)
    with WandbServer(server.port, keeps=server) as server:
        home.sync()
        assert_complete(server, 6)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_live_process_that_dies_or_hangs_costs_the_preview_only(home, connect, number):
    with WandbServer() as server:
        connect(server.url)
        with Publisher(home.path, stall_seconds=STALL) as publisher:
            publisher.changed(task(), State.RUNNING)
            train_and_show(home, server, 3)
            (live,) = processes(home, "tissuebench.tracking.live_process")
            os.kill(live, number)
            assert finish(home, publisher, 6) == "1 run is on W&B, in project tissuebench"
        assert_complete(server, 6)


@pytest.mark.slow
def test_a_trial_handed_back_is_left_open_and_continued(home, connect):
    with WandbServer() as server:
        connect(server.url)
        with Publisher(home.path) as publisher:
            publisher.changed(task(), State.RUNNING)
            train_and_show(home, server, 4)
            publisher.changed(task(), State.WAITING)
            publisher.close(0.0)
        assert server.runs[TRIAL.trial_id].n_completed == 0
        with Publisher(home.path) as publisher:
            publisher.changed(task(), State.RUNNING)
            train_and_show(home, server, 6)
            finish(home, publisher, 6)
        assert_complete(server, 6)


def test_a_crash_is_shown_with_its_end_of_log_and_a_second_attempt_ends_well(home, connect, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "tok-123456789")
    with WandbServer() as server:
        connect(server.url)
        (folder_of(home) / "log.txt").write_text(f"line\nasked with tok-123456789 and {KEY}\nRuntimeError: no luck\n")
        with Publisher(home.path) as publisher:
            publisher.changed(task(), State.RUNNING)
            train_and_show(home, server, 4)
            fail(home, "RuntimeError: no luck with tok-123456789")
            publisher.changed(task(), State.FAILED)
            assert publisher.close(SECONDS) == "1 run is on W&B, in project tissuebench"
        run = server.runs[TRIAL.trial_id]
        assert (run.exit_code, run.summary["failure"]) == (1, "RuntimeError: no luck with ***")
        assert loss(server) == curve(4)
        (log,) = [data for name, data in server.uploads.items() if name.endswith("/end_of_log.txt")]
        assert log.decode() == "line\nasked with *** and ***\nRuntimeError: no luck\n"
        received = server.operations.copy()
        with Publisher(home.path) as publisher:  # the next command finds the same failure
            publisher.changed(task(), State.FAILED)
            publisher.close(SECONDS)
        assert server.operations == received

        forget_failure(home.path, TaskKind.TRIAL, TRIAL.trial_id)
        with Publisher(home.path) as publisher:
            publisher.changed(task(), State.RUNNING)
            wait_until(lambda: processes(home, "tissuebench.tracking.live_process"), "nothing follows the trial")
            train(home, 2)
            wait_until(lambda: server.runs[TRIAL.trial_id].n_lines > 4 + len(STAGE), "the curve does not grow")
            finish(home, publisher, 6)
        assert_complete(server, 6)
        assert "failure" not in run.summary


@pytest.mark.slow
def test_a_crash_offline_waits_and_gives_way_to_the_second_attempt(home, connect):
    train(home, 4)
    fail(home)
    with Publisher(home.path) as publisher:
        publisher.changed(task(), State.FAILED)
        assert publisher.close(SECONDS).startswith("1 run for W&B waits in ")
    inspected = inspect(home)
    assert (inspected["exit_code"], inspected["summary"]["failure"]) == (1, "RuntimeError: no luck")
    forget_failure(home.path, TaskKind.TRIAL, TRIAL.trial_id)
    with Publisher(home.path) as publisher:
        publisher.changed(task(), State.RUNNING)
        wait_until(lambda: not home.folders(), "the crash is still waiting")
        finish(home, publisher, 6)
    inspected = inspect(home)
    assert inspected["exit_code"] == 0 and "test/miou" in inspected["summary"]
    with WandbServer() as server:
        connect(server.url)
        home.sync()
        assert_complete(server, 6)


def inspect(home: Home) -> dict:
    """What W&B's own reader says of the only run that waits."""
    (folder,) = home.runs.glob("wandb/offline-run-*")
    command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout)


@pytest.mark.slow
def test_what_is_not_finite_or_damaged_stops_no_run(home, connect):
    with WandbServer() as server:
        connect(server.url)
        with Publisher(home.path) as publisher:
            write_curve(folder_of(home), {1: 1.0, 2: math.nan, 3: math.inf})
            publisher.changed(task(), State.RUNNING)
            wait_until(lambda: len(loss(server)) >= 2, "the curve does not grow")
            (folder_of(home) / "metrics.csv").write_text("step,train/loss\n7,1\n7,1\n8,1\n")
            time.sleep(3.0)  # it is read, and there is more in time
            train(home, 6)
            wait_until(lambda: len(loss(server)) >= 5, "the curve does not grow")
            finish(home, publisher, 7)
        assert_complete(server, 7)
