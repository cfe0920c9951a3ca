"""Several runners on one plan, stages that are shared, and a sweep that is handed back and taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter

import numpy as np
import pytest

from tissuebench.results.metrics import miou
from tissuebench.results.records.curves import read_curves
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.journal import read_journal

STAGES = ["methods.staged.pretrain_steps=8", "methods.staged.cam_steps=5"]


def ends(home):
    """How often each task was run to its end."""
    folders = [folder for room in ("trials", "stages", "features") for folder in (home / "runs" / room).glob("*")]
    return Counter({f.name: sum(event["event"] == "done" for event in read_journal(f)) for f in folders})


def counts_of(home):
    return {result.trial_id: result.counts for result in ResultStore(results_folder(home)).load()}


def assert_same_counts(one, other):
    assert one.keys() == other.keys()
    assert one
    for trial_id, counts in one.items():
        np.testing.assert_array_equal(counts, other[trial_id])


@pytest.mark.slow
def test_a_shared_stage_is_run_once_and_its_steps_are_saved(bench, plugin, local, capsys):
    plan = bench.plan("budgets=['masks:1p','masks:2p','masks:3p']", "seeds=[0,1,2]", *STAGES)
    trials = bench.trials(plan, "supervised", "complementary", "staged")
    graph = bench.graph(trials)
    summary = bench.run(trials, executor=local())
    assert not summary.failed
    assert set(ends(bench.home).values()) == {1}
    assert set(ends(bench.home)) == set(graph)
    pretrained = [task for task in graph.of_kind(TaskKind.STAGE) if task.job.document["stage"] == "pretrain_of_a_test"]
    assert len(pretrained) == 3
    executed = sum(
        event["steps"]
        for task in graph.values()
        for event in read_journal(
            bench.home / "runs" / ("trials" if task.trial.id == task.key else "stages") / task.key
        )
        if event["event"] == "done"
    )
    assert executed == summary.steps == graph.steps == 27 * 6 + 3 * 8 + 9 * 5
    assert graph.independent_steps == 27 * 6 + 9 * (8 + 5)
    with capsys.disabled():
        print(f"\noptimiser steps executed / of independent trials: {executed} / {graph.independent_steps}")
    result = next(r for r in ResultStore(results_folder(bench.home)).load() if r.method.startswith("staged"))
    assert result.compute["steps/pretrain_of_a_test"] == 8
    assert result.compute["steps/cam_of_a_test"] == 5
    assert result.seconds["stage/pretrain_of_a_test"] > 0


def test_stages_change_the_trial(bench, plugin, tmp_path):
    """What a stage has learnt, and the pseudo-masks it made, arrive in the last stage."""
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", *STAGES)
    variants = ["methods.staged.noise=0.1", "methods.staged.noise=0.9", "methods.staged.weight=0.0"]
    trials = [bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']", *STAGES, v), "staged")[0] for v in variants]
    trials += bench.trials(plan, "supervised")
    bench.run(trials)
    losses = [read_curves(bench.home / "runs" / "trials" / trial.id)["train/loss"] for trial in trials]
    assert len(set(losses)) == 4


@pytest.mark.slow
def test_two_runners_started_together_share_the_work(bench, plugin, quiet_environment, tmp_path):
    options = ("--method", "supervised,staged", "--budget", "masks:2p", "--json", "--slots", "1")
    command = bench.command(*options, *(part for pair in STAGES for part in ("--set", pair)))
    alone_home = bench.elsewhere(tmp_path / "alone")
    alone = [str(alone_home) if part == str(bench.home) else part for part in command]
    environment = {**quiet_environment, "PYTHONPATH": os.environ["PYTHONPATH"]}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    runners = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [runner.communicate(timeout=500) for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], said
    assert set(ends(bench.home).values()) == {1}
    assert said[0][0] == said[1][0]
    undisturbed = subprocess.run(alone, **pipes, timeout=500)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert json.loads(undisturbed.stdout)
    assert undisturbed.stdout == said[0][0]
    assert_same_counts(counts_of(bench.home), counts_of(alone_home))
    assert ends(bench.home).keys() == ends(alone_home).keys()
    pids = {event["pid"] for f in (bench.home / "runs").glob("*/*/") for event in read_journal(f) if "pid" in event}
    assert len(pids) == 2  # both have worked


def test_an_interruption_hands_every_task_back(bench, plugin, local, slots=2):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=100000")
    trials = bench.trials(plan, "supervised", "complementary")
    folders = [bench.home / "runs" / "trials" / trial.id for trial in trials][:slots]

    class Interrupting(type(bench.seen)):
        def tick(self):
            if all((folder / "progress.json").is_file() for folder in folders) and all(
                json.loads((folder / "progress.json").read_text())["phase"] == "training" for folder in folders
            ):
                raise KeyboardInterrupt

    object.__setattr__(bench, "seen", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        bench.run(trials, executor=local(slots=slots))
    for folder in folders:
        assert [event["event"] for event in read_journal(folder)] == ["started", "interrupted"]
        assert (folder / "last.ckpt").is_file()
        assert not (folder / "lease.json").exists()


ONE_OR_TWO = (
    *("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package"),
    *("network.dropout=0", "seeds=[0]", "budgets=['masks:3p']", "training.steps=30", "training.batch_size=4"),
)


def test_a_trial_over_two_processes_is_a_task_like_any_other(bench, local, tmp_path):
    (trial,) = bench.trials(bench.plan(*ONE_OR_TWO), "supervised")
    elsewhere = bench.elsewhere(tmp_path / "two")
    bench.run([trial], executor=local(slots=1))
    bench.run([trial], elsewhere, executor=local(elsewhere, slots=1, processes=2))
    one, two = (ResultStore(results_folder(home)).load([trial.id])[0] for home in (bench.home, elsewhere))
    assert (one.environment["processes"], two.environment["processes"]) == (1, 2)
    assert one.compute["samples"] == two.compute["samples"]
    assert one.slide_ids == two.slide_ids
    np.testing.assert_array_equal(one.counts.sum(axis=2), two.counts.sum(axis=2))  # the truth, each pixel once
    assert miou(one.counts.sum(axis=0)) == pytest.approx(miou(two.counts.sum(axis=0)), abs=1e-3)
    assert miou(one.counts.sum(axis=0)) > 0.2


@pytest.mark.slow
def test_a_process_of_a_trial_that_is_killed_is_noticed_and_the_trial_goes_on(bench, local):
    (trial,) = bench.trials(bench.plan(*ONE_OR_TWO, "training.steps=120"), "supervised")
    folder = bench.home / "runs" / "trials" / trial.id
    executor = local(slots=1, processes=2, checkpoint_minutes=0.001)
    killed = []

    class Killing(type(bench.seen)):
        def tick(self):
            if not killed and (folder / "last.ckpt").is_file():
                (worker,) = [worker for worker in executor._workers if worker]
                killed.append(worker._processes[1].pid)
                os.kill(killed[0], signal.SIGKILL)

    object.__setattr__(bench, "seen", Killing())
    assert trial.id in bench.run([trial], executor=executor).done
    assert killed
    events = read_journal(folder)
    assert [event["event"] for event in events] in (
        ["started", "lost", "started", "done"],  # the supervisor saw it first
        ["started", "failed", "started", "done"],
    )
    assert events[2]["resumed"]
