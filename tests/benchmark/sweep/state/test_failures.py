"""Whatever a method does to its process, it ends as one failed task with a reason, and its siblings finish."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest

from tissuebench.results.records.curves import read_curves
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.failures import read_failure
from tissuebench.sweep.state.folders import task_folder
from tissuebench.sweep.state.journal import read_journal
from tissuebench.sweep.state.leases import holder_of


def trials_of(bench, *methods):
    return bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']"), *methods)


def events(bench, trial):
    return [event["event"] for event in read_journal(task_folder(bench.home, TaskKind.TRIAL, trial.id))]


def reasons(bench):
    return {failure.method: failure for failure in ResultStore(results_folder(bench.home)).read_failures()}


def test_each_bad_method_fails_for_its_reason_and_the_good_ones_finish(bench, plugin, local):
    names = ("raising", "not_a_number", "leaking", "sleeping", "dying", "bad_start", "supervised", "complementary")
    trials = trials_of(bench, *names)
    executor = local(stall_minutes=0.2, memory_gb=2)
    summary = bench.run(trials, executor=executor, retries=1)
    good = {trial.id for trial in trials if trial.method in ("supervised", "complementary")}
    assert set(summary.done) == good
    assert len(summary.failed) == 6 + 1  # a stage, too
    found = reasons(bench)
    assert found["raising"].reason == "RuntimeError: no more of this"
    assert "misbehave" in found["raising"].traceback
    assert found["not_a_number"].reason.startswith("loss is nan at step")
    assert found["leaking"].reason.endswith("its slot has 2.0 (compute.memory_gb)")
    assert found["sleeping"].reason.startswith("no progress for 12 s (compute.stall_minutes)")
    assert found["dying"].reason.startswith("lost 2 times: its process was killed (SIGKILL)")
    assert found["bad_start"].reason == (
        "not run: failing_of_a_test seed 0 failed (RuntimeError: this stage cannot begin)"
    )
    by_method = {trial.method: trial for trial in trials}
    assert events(bench, by_method["dying"]) == ["started", "lost", "started", "lost"]
    assert events(bench, by_method["supervised"]) == ["started", "done"]
    assert "train/loss" in read_curves(task_folder(bench.home, TaskKind.TRIAL, by_method["raising"].id))
    for trial in trials:
        folder = task_folder(bench.home, TaskKind.TRIAL, trial.id)
        assert holder_of(folder) is None
        if trial.id not in good and folder.exists():
            assert not list(folder.glob("*.ckpt"))

    again = bench.run(trials, executor=local(), retries=1)
    assert again.done == ()
    assert set(again.failed) == set(summary.failed)
    assert any("--retry-failed" in note for note in bench.seen.notes)


def test_a_stage_that_is_mended_lets_its_trials_run(bench, plugin, monkeypatch):
    trials = trials_of(bench, "bad_start")
    assert bench.run(trials).done == ()
    monkeypatch.setattr(plugin.FailingStage, "__init__", plugin.Denoising.__init__)
    assert bench.run(trials).done == ()  # left alone
    summary = bench.run(trials, retry_failed=True)
    assert len(summary.done) == 2
    assert not reasons(bench)
    assert read_failure(bench.home, TaskKind.TRIAL, trials[0].id) is None


@pytest.mark.slow
def test_what_a_method_leaves_changed_in_its_process_is_not_seen_by_the_next(bench, plugin, local, tmp_path):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']")
    by_method = {trial.method: trial for trial in bench.trials(plan, "untidy", "supervised", "complementary")}
    untidy, *others = (by_method[name] for name in ("untidy", "supervised", "complementary"))
    elsewhere = bench.elsewhere(tmp_path / "alone")
    executor = local(slots=1)
    bench.run([others[0], untidy, others[1]], executor=executor)
    bench.run(others, elsewhere, executor=local(elsewhere, slots=1))
    for trial in others:
        one, other = (ResultStore(results_folder(home)).load([trial.id])[0] for home in (bench.home, elsewhere))
        np.testing.assert_array_equal(one.counts, other.counts)
    pids = {}
    for trial in (untidy, *others):
        (started, _) = read_journal(task_folder(bench.home, TaskKind.TRIAL, trial.id))
        pids[trial.method] = started["pid"]
    assert pids["supervised"] == pids["untidy"]  # kept warm until then
    assert pids["complementary"] != pids["untidy"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 150 MB: what ``writing`` learns is larger, what ``supervised`` learns is not."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_fails_what_needs_it_and_nothing_else(bench, plugin, local, small_disk):
    (bench.home / "runs").rmdir() if (bench.home / "runs").exists() else None
    (bench.home / "runs").symlink_to(small_disk)
    trials = trials_of(bench, "writing", "supervised")
    summary = bench.run(trials, executor=local(slots=1))
    by_method = {trial.method: trial.id for trial in trials}
    assert summary.done == (by_method["supervised"],)
    assert summary.failed == (by_method["writing"],)
    assert "No space left" in reasons(bench)["writing"].reason
    folder = task_folder(bench.home, TaskKind.TRIAL, by_method["writing"])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000  # it left room for the others


def test_results_that_cannot_be_written_are_failures_that_are_told(bench, plugin, local):
    """The folder of results is read-only: for root, too, as it is a mount."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = results_folder(bench.home)
    folder.mkdir(parents=True)
    bind = subprocess.run(["mount", "--bind", folder, folder], capture_output=True)
    if bind.returncode:
        pytest.skip(f"nothing can be mounted here: {bind.stderr.decode()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        trials = trials_of(bench, "supervised")
        summary = bench.run(trials, executor=local(slots=1))
    finally:
        subprocess.run(["umount", folder], check=True)
    assert summary.failed == (trials[0].id,)
    (failed,) = [detail for _, state, detail in bench.seen.changes if state == "failed"]
    assert "Read-only file system" in failed
    assert bench.run(trials, executor=local(slots=1), retry_failed=True).done == (trials[0].id,)


def test_a_store_of_slides_that_is_read_only_is_enough(bench, local):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    trials = trials_of(bench, "supervised")
    data = bench.home / "data"
    if subprocess.run(["mount", "--bind", data, data], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", data], check=True)
        assert bench.run(trials, executor=local(slots=1)).done == (trials[0].id,)
    finally:
        subprocess.run(["umount", data], check=True)


@pytest.mark.slow
def test_a_worker_that_is_killed_from_outside_goes_on_where_it_was(bench, local, tmp_path):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=60")
    trials = bench.trials(plan, "supervised")
    folder = task_folder(bench.home, TaskKind.TRIAL, trials[0].id)
    elsewhere = bench.elsewhere(tmp_path / "calm")
    killed = []

    class Killing(type(bench.seen)):
        def tick(self):
            holder = holder_of(folder)
            if not killed and holder is not None and (folder / "last.ckpt").is_file():
                killed.append(holder.pid)
                os.kill(holder.pid, signal.SIGKILL)

    object.__setattr__(bench, "seen", Killing())
    summary = bench.run(trials, executor=local(slots=1, checkpoint_minutes=0.02))
    assert summary.done == (trials[0].id,)
    assert killed
    assert [event["event"] for event in read_journal(folder)] == ["started", "lost", "started", "done"]
    assert read_journal(folder)[2]["resumed"]
    bench.run(trials, elsewhere, executor=local(elsewhere, slots=1))
    one, other = (ResultStore(results_folder(home)).load()[0].counts for home in (bench.home, elsewhere))
    np.testing.assert_array_equal(one, other)


def test_workers_leave_when_the_runner_is_gone(bench, local):
    executor = local(slots=1)
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=100000")
    (task,) = bench.graph(bench.trials(plan, "supervised")).values()
    executor.start(task.job)
    folder = task_folder(bench.home, TaskKind.TRIAL, task.key)
    until = time.monotonic() + 120
    while (holder := holder_of(folder)) is None and time.monotonic() < until:
        executor.poll(0.1)
    (worker,) = [worker for worker in executor._workers if worker]
    worker._processes[0].stdin.close()  # what a runner that is killed leaves behind
    psutil.wait_procs([psutil.Process(holder.pid)], timeout=60)
    assert not psutil.pid_exists(holder.pid) or psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE
    assert read_journal(folder)[-1]["event"] == "interrupted"
    assert holder_of(folder) is None
    executor.close()
