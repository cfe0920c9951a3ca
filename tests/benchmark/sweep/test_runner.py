"""Running a plan: nothing twice, nothing lost, the same bits whatever happened before."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuebench.bench import board_of_trials
from tissuebench.methods.api.registry import register
from tissuebench.methods.supervised import Supervised
from tissuebench.results.records.curves import read_curves
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.runtime.machine import detect_machine
from tissuebench.sweep.state.heartbeat import read_progress
from tissuebench.training.build import build_datamodule, build_method
from tissuebench.training.fit import Interrupted, fit

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")


def counts_of(home):
    return {result.trial_id: result.counts for result in ResultStore(results_folder(home)).load()}


def assert_same_counts(one, other):
    assert one.keys() == other.keys()
    assert one
    for trial_id, counts in one.items():
        np.testing.assert_array_equal(counts, other[trial_id])


def trained_state(bench, trial, folder, **options):
    machine = detect_machine(trial.network.encoder_mode)
    method = build_method(trial, bench.data)
    data = build_datamodule(trial, method, bench.data, None, machine)
    folder.mkdir(parents=True, exist_ok=True)
    fitted = fit(method, data, folder, trial.seed, machine, lambda _: None, **options)
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}, fitted


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_a_finished_trial_is_not_run_again_and_the_table_stays(bench):
    plan = bench.plan("seeds=[0]")
    trials = bench.trials(plan, "supervised", "full")
    first = bench.run(trials)
    assert set(first.done) == {trial.id for trial in trials}
    assert first.steps == 6 * len(trials)
    store = ResultStore(results_folder(bench.home))
    stamps = {trial.id: store.path(trial.id).stat().st_mtime_ns for trial in trials}
    table = board_of_trials(store, trials)
    second = bench.run(trials)
    assert second.done == ()
    assert set(second.skipped) == set(first.done)
    assert {trial.id: store.path(trial.id).stat().st_mtime_ns for trial in trials} == stamps
    assert board_of_trials(store, trials) == table
    assert not list((bench.home / "runs").rglob("*.ckpt"))


def test_order_of_trials_in_a_process_does_not_matter(bench, tmp_path):
    plan = bench.plan("budgets=['masks:2p']", "seeds=[0]")
    trials = bench.trials(plan, "supervised", "complementary", "full")
    elsewhere = bench.elsewhere(tmp_path / "other")
    bench.run(trials)
    torch.rand(5), np.random.rand(3), random.random()  # noqa: NPY002
    bench.run(trials[::-1], elsewhere)
    assert_same_counts(counts_of(bench.home), counts_of(elsewhere))


def test_seed_and_budget_and_method_change_the_id_and_paths_do_not(bench):
    plan = bench.plan()
    trials = bench.trials(plan, "supervised", "complementary", "full")
    assert len({trial.id for trial in trials}) == len(trials) == 2 * (2 + 2 + 1)
    assert [t.id for t in bench.trials(bench.plan(), "supervised")] == [t.id for t in bench.trials(plan, "supervised")]
    assert {t.id for t in bench.trials(bench.plan("training.compile=true"), "supervised")} <= {t.id for t in trials}
    assert not {t.id for t in bench.trials(bench.plan("training.steps=7"), "supervised")} & {t.id for t in trials}


def test_a_diagnosis_costs_what_the_dataset_says(bench, monkeypatch):
    free = {
        trial.method: trial.minutes
        for trial in bench.trials(bench.plan("budgets=['masks:2p']"), "supervised", "complementary")
    }
    assert free["supervised"] == free["complementary"] > 0
    store = bench.data.store
    costs = replace(store.info.costs, diagnosis_minutes_per_case=1.5)
    monkeypatch.setattr(store, "info", replace(store.info, costs=costs))
    priced = {
        trial.method: trial.minutes
        for trial in bench.trials(bench.plan("budgets=['masks:2p']"), "supervised", "complementary")
    }
    assert priced["supervised"] == free["supervised"]
    assert priced["complementary"] == free["complementary"] + 1.5 * len(bench.data.split.patients("train"))


def test_weight_zero_is_supervised_bit_for_bit(bench, tmp_path):
    plan = bench.plan("methods.complementary.weight=0", "seeds=[0]", "budgets=['masks:2p']")
    supervised, complementary = bench.trials(plan, "supervised", "complementary")
    one, _ = trained_state(bench, supervised, tmp_path / "a")
    other, _ = trained_state(bench, complementary, tmp_path / "b")
    assert_same_state(one, other)
    assert complementary.arm == "complementary[weight=0.0]"


@pytest.mark.parametrize("method", ["supervised", "complementary"])
def test_a_fit_stopped_in_the_middle_resumes_with_the_same_bits(bench, tmp_path, method):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=9")
    (trial,) = bench.trials(plan, method)
    whole, _ = trained_state(bench, trial, tmp_path / "whole")
    machine = detect_machine(trial.network.encoder_mode)

    folder = tmp_path / "resumed"
    folder.mkdir()
    started = build_method(trial, bench.data)
    data = build_datamodule(trial, started, bench.data, None, machine)
    with pytest.raises(Interrupted):
        fit(started, data, folder, trial.seed, machine, lambda _: None, stop=lambda: started.trainer.global_step == 5)
    assert (folder / "last.ckpt").is_file()
    seen = []
    resumed = build_method(trial, bench.data)
    data = build_datamodule(trial, resumed, bench.data, None, machine)
    fit(resumed, data, folder, trial.seed, machine, seen.append)
    assert seen[0] == 5
    assert seen[-1] == 9
    assert_same_state(whole, dict(resumed.state_dict()))
    losses = [read_curves(tmp_path / name)["train/loss"] for name in ("whole", "resumed")]
    assert losses[0] == losses[1]


@register
class _Failing(Supervised):
    name = "failing_in_a_test"
    summary = "raises at step 2"

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 2:
            raise RuntimeError("no more\nof this")
        return super().training_step(batch, batch_idx)


@register
class _NotANumber(Supervised):
    name = "nan_in_a_test"
    summary = "its loss becomes NaN"

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (float("nan") if self.trainer.global_step >= 3 else 1.0)


@register
class _Greedy(Supervised):
    name = "greedy_in_a_test"
    summary = "wants diagnoses without declaring them"

    def streams(self):
        from tissuebench.datasets.types import Stream, Supervision

        return {**super().streams(), "more": Stream(Supervision.DIAGNOSIS, 2)}


def test_a_failing_trial_keeps_its_reason_and_the_others_finish(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']")
    names = ("failing_in_a_test", "nan_in_a_test", "greedy_in_a_test", "supervised")
    trials = bench.trials(plan, *names)
    summary = bench.run(trials)
    by_method = {trial.method: trial.id for trial in trials}
    assert summary.done == (by_method["supervised"],)
    store = ResultStore(results_folder(bench.home))
    reasons = {failure.method: failure for failure in store.read_failures()}
    assert reasons["failing_in_a_test"].reason == "RuntimeError: no more of this"
    assert "training_step" in reasons["failing_in_a_test"].traceback
    assert "nan" in reasons["nan_in_a_test"].reason
    assert "not in consumes" in reasons["greedy_in_a_test"].reason
    left_alone = bench.run(trials)
    assert left_alone.done == ()
    assert len(left_alone.failed) == 3
    retried = bench.run(trials, retry_failed=True)
    assert retried.done == ()
    assert len(retried.failed) == 3
    board = board_of_trials(store, trials)
    assert {gap.method for gap in board.gaps} == set(names) - {"supervised"}


def test_frozen_encoder_trains_on_cached_features_and_a_second_run_reads_them(bench, tmp_path):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", *FROZEN)
    trials = bench.trials(plan, "supervised", "complementary")
    summary = bench.run(trials)
    assert len(summary.done) == 4  # one shard of features of tiles, one of windows, two trials
    shards = list((bench.home / "runs" / "features").iterdir())
    assert len(shards) == 2
    stamps = [(shard / "index.json").stat().st_mtime_ns for shard in shards]
    results = ResultStore(results_folder(bench.home))
    kept = counts_of(bench.home)
    for trial in trials:
        results.path(trial.id).unlink()
    bench.run(trials)
    assert [(shard / "index.json").stat().st_mtime_ns for shard in shards] == stamps
    assert_same_counts(kept, counts_of(bench.home))
    changed = bench.plan("seeds=[0]", "budgets=['masks:2p']", *FROZEN, "augmentation.color=0.1")
    bench.run(bench.trials(changed, "supervised"))
    assert len(list(shards[0].parent.iterdir())) == 3  # the windows are not augmented


def test_killed_and_typed_again_gives_the_same_table(bench, tmp_path, quiet_environment):
    options = ["--method", "complementary", "--json", "--budget", "masks:2p", "--set", "training.steps=12"]
    whole_home = tmp_path / "whole"
    subprocess.run(["cp", "-r", str(bench.home), str(whole_home)], check=True)
    command = bench.command(*options)
    whole = [str(whole_home) if part == str(bench.home) else part for part in command]
    undisturbed = subprocess.run(whole, env=quiet_environment, capture_output=True, text=True, timeout=400)
    assert undisturbed.returncode == 0, undisturbed.stderr[-2000:]

    results = results_folder(bench.home)
    process = subprocess.Popen(
        command, env=quiet_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while len(list(results.glob("*.parquet"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in results.glob("*.parquet")}
    assert 2 <= len(finished) < len(json.loads(undisturbed.stdout))

    again = subprocess.run(command, env=quiet_environment, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert again.stdout == undisturbed.stdout
    assert_same_counts(counts_of(bench.home), counts_of(whole_home))
    once_more = subprocess.run(command, env=quiet_environment, capture_output=True, text=True, timeout=400)
    assert once_more.stdout == undisturbed.stdout
    assert "already finished" in once_more.stderr
    assert not [path for path in bench.home.rglob("*") if path.name.endswith((".tmp", ".partial", ".ckpt"))]


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_in_the_middle_of_a_fit_says_so_and_goes_on_there(bench, quiet_environment, sent):
    command = bench.command(
        *("--method", "supervised", "--budget", "masks:2p", "--seed", "0", "--set", "training.steps=40"),
        *("--slots", "1"),
    )
    process = subprocess.Popen(
        command, env=quiet_environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    trials = bench.home / "runs" / "trials"
    deadline = time.monotonic() + 200
    while not any(p.phase == "training" and p.done > 2 for p in map(read_progress, trials.glob("*")) if p):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    said = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert (
        said.strip().splitlines()[-1]
        == "tissuebench: interrupted; run the same command again to pick up where it left off"
    )
    (checkpoint,) = trials.rglob("last.ckpt")
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < step < 40
    again = subprocess.run(command, env=quiet_environment, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0
    assert f" {step}/40" in again.stderr
