"""The display of a sweep: plain lines elsewhere, a table on a terminal, cheap with many tasks."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

import tissuebench.sweep.view.live as live
from tissuebench.sweep.graph import Graph, SweepTask
from tissuebench.sweep.jobs import Job, State, TaskKind
from tissuebench.sweep.state.folders import task_folder
from tissuebench.sweep.state.heartbeat import Progress
from tissuebench.sweep.state.journal import seconds_spent
from tissuebench.sweep.view.live import SweepDisplay
from tissuebench.sweep.view.pace import Pace, Work, clock


def task(home, number, kind=TaskKind.TRIAL, title=None, needs=(), steps=300):
    key = f"{number:016x}"
    tiles = 64 if kind is TaskKind.FEATURES else 0
    job = Job(key, kind, title or f"arm [x] seed {number}", home, {})
    return SweepTask(job, needs, 0 if tiles else steps, tiles, None)


def moving(each, phase="training", done=120, total=300, first=0, rate=10.0, gpu=0):
    folder = task_folder(each.job.home, each.job.kind, each.key)
    folder.mkdir(parents=True, exist_ok=True)
    facts = Progress(phase, done, total, first, 1, rate, 2**30, 2**30, gpu, time.time())
    content = {name: getattr(facts, name) for name in Progress.__slots__}
    (folder / "progress.json").write_text(json.dumps(content))


@pytest.fixture
def clocked(monkeypatch):
    """A clock that a test moves by hand."""
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.fixture
def shown(tmp_path):
    def make(tasks, terminal=False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=140, height=30)
        return SweepDisplay(console, Graph({each.key: each for each in tasks})), out

    return make


def test_plain_lines_are_numbered_as_they_end_and_say_how_long_the_rest_takes(shown, tmp_path):
    tasks = [task(tmp_path, number) for number in range(4)]
    display, out = shown(tasks)
    with display:
        display.changed(tasks[0], State.DONE, "already finished", 0.0)
        display.tick()
        assert out.getvalue() == ""  # what was finished before is not said again
        display.changed(tasks[2], State.RUNNING, "", 0.0)
        display.changed(tasks[2], State.DONE, "", 14.2)
        display.changed(tasks[1], State.RUNNING, "", 0.0)
        display.changed(tasks[1], State.WAITING, "its process was killed (SIGKILL); started again", 0.0)
        display.changed(tasks[1], State.FAILED, "RuntimeError: [bold]no[/bold]", 3.0)
        display.changed(tasks[3], State.SKIPPED, "not run: x failed", 0.0)
    assert out.getvalue().splitlines() == [
        "trial 2/4 arm [x] seed 2: done in 14 s (ETA 0:28)",
        "trial arm [x] seed 1: its process was killed (SIGKILL); started again",
        "trial 3/4 arm [x] seed 1: FAILED: RuntimeError: [bold]no[/bold] (ETA 0:14)",
        "trial 4/4 arm [x] seed 3: not run: x failed",
    ]


def test_plain_progress_only_when_nothing_else_was_said(shown, tmp_path, clocked):
    tasks = [task(tmp_path, number) for number in range(6)]
    display, out = shown(tasks)
    with display:
        for each in tasks[:5]:
            display.changed(each, State.RUNNING, "", 0.0)
            moving(each)
        for _ in range(14):
            clocked(1.0)
            display.tick()
        assert out.getvalue() == ""
        clocked(1.0)
        display.tick()
        display.tick()
        (line,) = out.getvalue().splitlines()
    assert line.startswith("running: arm [x] seed 0 training 120/300, arm [x] seed 1 training 120/300, ")
    assert "and 1 more" in line
    assert line.endswith("(ETA 0:24)")  # 5 x 18 s left and 30 s that wait, shared by 5


def test_the_last_loss_is_shown_beside_the_progress(shown, tmp_path, clocked):
    each = task(tmp_path, 0)
    for terminal in (False, True):
        display, out = shown([each], terminal)
        with display:
            display.changed(each, State.RUNNING, "", 0.0)
            moving(each)
            (task_folder(tmp_path, each.job.kind, each.key) / "metrics.csv").write_text("step,train/loss\n9,0.98765\n")
            for _ in range(16):
                clocked(1.0)
                display.tick()
        assert "0.988" in out.getvalue()
        assert terminal or "training 120/300, loss 0.988" in out.getvalue()


def test_a_resumed_fit_says_where_it_starts_and_counts_from_there(shown, tmp_path, clocked):
    tasks = [task(tmp_path, number) for number in range(2)]
    display, out = shown(tasks)
    with display:
        display.changed(tasks[0], State.RUNNING, "", 0.0)
        moving(tasks[0], done=150, first=120)
        for _ in range(3):
            clocked(1.1)
            display.tick()
        assert out.getvalue() == "trial arm [x] seed 0: resumes at 120/300\n"
        display.changed(tasks[0], State.DONE, "", 18.0)  # 180 steps, so the other takes 30 s
    assert out.getvalue().endswith("(ETA 0:30)\n")


def test_a_terminal_shows_what_runs_and_how_far_it_is(shown, tmp_path, clocked):
    tasks = [
        task(tmp_path, 0, TaskKind.FEATURES, "features 1/1 of net"),
        *(task(tmp_path, number, needs=(f"{0:016x}",)) for number in range(1, 60)),
    ]
    display, out = shown(tasks, terminal=True)
    with display:
        display.changed(tasks[0], State.RUNNING, "", 0.0)
        display.changed(tasks[0], State.DONE, "", 5.0)
        for each in tasks[1:50]:
            display.changed(each, State.RUNNING, "", 0.0)
        moving(tasks[1], gpu=3 * 2**29)
        moving(tasks[2], "scoring slides", 3, 8)
        display.changed(tasks[59], State.FAILED, "[red]oh", 1.0)
        out.truncate(0)
        clocked(1.0)
        display.tick()
        seen = out.getvalue()
    for said in (
        "1/60 done, 49 running, 9 waiting, 1 failed", "step 120/17,700", "120/300", "10.0/s", "1.5 GB", "3/8", "scoring slides",
        "arm [x] seed 1", "trial 1/59 arm [x] seed 59: FAILED: [red]oh", "shard 1/1 features 1/1 of net: done in 5 s", "more",
    ):  # fmt: skip
        assert said in seen, said
    assert seen.count("\n") < 30


def test_a_terminal_is_drawn_four_times_a_second_at_most(shown, tmp_path, clocked):
    tasks = [task(tmp_path, number) for number in range(3)]
    display, out = shown(tasks, terminal=True)
    with display:
        display.changed(tasks[0], State.RUNNING, "", 0.0)
        clocked(1.0)
        display.tick()
        drawn = out.tell()
        for _ in range(100):
            display.tick()
        assert out.tell() == drawn
        clocked(0.25)
        display.tick()
        assert out.tell() > drawn


def test_progress_is_read_once_a_second_at_most(shown, tmp_path, clocked, monkeypatch):
    tasks = [task(tmp_path, number) for number in range(500)]
    read = []
    monkeypatch.setattr(live, "read_progress", read.append)
    display, _ = shown(tasks, terminal=True)
    with display:
        for each in tasks[:2]:
            display.changed(each, State.RUNNING, "", 0.0)
        for _ in range(100):
            clocked(0.05)
            display.tick()
        assert len(read) <= 2 * 6
        for each in tasks[2:]:
            display.changed(each, State.RUNNING, "", 0.0)
        read.clear()
        for _ in range(200):
            clocked(0.05)
            display.tick()
        assert len(read) <= 500 * 3  # of 500 that run, each only every five seconds


def test_pace_knows_kinds_apart_and_waits_until_it_knows():
    pace = Pace()
    features, small, large = Work(TaskKind.FEATURES, 64), Work(TaskKind.TRIAL, 100), Work(TaskKind.TRIAL, 400)
    assert pace.left({small: 1}, []) is None
    pace.over(features, 8.0)
    assert pace.expected(Work(TaskKind.FEATURES, 32)) == 4.0
    assert pace.left({small: 1}, []) is None
    pace.over(small, 10.0)
    pace.over(small, 20.0)
    assert pace.expected(small) == 15.0
    assert pace.expected(large) == pace.expected(Work(TaskKind.STAGE, 400)) == 60.0
    assert pace.left({small: 4, features: 1}, [], slots=2) == (4 * 15 + 8) / 2
    half = Progress("training", 200, 400, 0, 1, 99.0, 0, 0, 0, 0.0)
    assert pace.left({}, [(large, half)], slots=4) == 30.0  # one task is not shared by slots
    scoring = Progress("scoring slides", 6, 8, 0, 1, 0.5, 0, 0, 0, 0.0)
    assert pace.left({}, [(large, scoring)]) == 4.0


def test_what_was_finished_before_tells_how_long_the_rest_takes(shown, tmp_path):
    tasks = [task(tmp_path, number) for number in range(3)]
    folder = task_folder(tmp_path, TaskKind.TRIAL, tasks[0].key)
    folder.mkdir(parents=True)
    events = [("started", 100.0), ("interrupted", 130.0), ("started", 500.0), ("done", 510.0)]
    (folder / "journal.jsonl").write_text("".join(json.dumps({"event": e, "time": t}) + "\n" for e, t in events))
    display, out = shown(tasks)
    with display:
        display.changed(tasks[0], State.DONE, "already finished", 0.0)
        display.changed(tasks[1], State.RUNNING, "", 0.0)
        display.changed(tasks[1], State.FAILED, "oh", 1.0)
    assert out.getvalue() == "trial 2/3 arm [x] seed 1: FAILED: oh (ETA 0:40)\n"


@pytest.mark.parametrize(
    ("events", "spent"),
    [
        ([], None),
        ([("started", 1), ("done", 5)], 4),
        ([("started", 1), ("failed", 5), ("started", 10), ("done", 12)], 2),
        ([("started", 1), ("lost", 5), ("started", 10), ("done", 12)], 6),
        ([("started", 1), ("started", 10), ("done", 12)], 2),  # the whole machine went down
    ],
)
def test_seconds_spent_on_a_task(tmp_path, events, spent):
    if events:
        (tmp_path / "journal.jsonl").write_text("".join(json.dumps({"event": e, "time": t}) + "\n" for e, t in events))
    assert seconds_spent(tmp_path) == spent


@pytest.mark.parametrize(("seconds", "said"), [(6.6, "0:07"), (750, "12:30"), (11100, "3:05:00")])
def test_clock(seconds, said):
    assert clock(seconds) == said
