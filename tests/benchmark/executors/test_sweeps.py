"""Real sweeps on real clusters: whatever happens to a job there, the counts are those of this process, bit for bit."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from threading import Thread

import numpy as np
import pytest

from tests.clusters.ray import OTHER
from tests.clusters.standin import wait_until
from tissuebench.executors.registry import find_executor
from tissuebench.plans.compute import ComputeSettings
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import task_folder
from tissuebench.sweep.state.heartbeat import read_progress
from tissuebench.sweep.state.journal import read_journal
from tissuebench.sweep.state.leases import holder_of


def counts_of(home):
    return {result.trial_id: result.counts for result in ResultStore(results_folder(home)).load()}


def assert_same_counts(one, other):
    assert one
    assert one.keys() == other.keys()
    for trial_id, counts in one.items():
        np.testing.assert_array_equal(counts, other[trial_id])


def make(home, **compute):
    settings = ComputeSettings.model_validate(compute)
    return find_executor(settings.executor)(settings, home)


@contextmanager
def sweeping(bench, trials, home, executor):
    """Run the trials in a thread, so that the test can do something to them meanwhile."""
    summaries = []
    thread = Thread(target=lambda: summaries.append(bench.run(trials, home, executor)))
    thread.start()
    try:
        yield summaries
    finally:
        thread.join(300)
        assert not thread.is_alive()


def is_training(home, trial):
    progress = read_progress(task_folder(home, TaskKind.TRIAL, trial.id))
    return progress is not None and progress.phase == "training" and progress.done >= 5


def has_checkpoint(home, trial):
    return (task_folder(home, TaskKind.TRIAL, trial.id) / "last.ckpt").is_file()


def started(home, trial) -> list[bool]:
    """For each start of the task whether it went on from a checkpoint."""
    events = read_journal(task_folder(home, TaskKind.TRIAL, trial.id))
    return [event["resumed"] for event in events if event["event"] == "started"]


@pytest.mark.slow
def test_a_sweep_through_slurm_has_the_counts_of_this_process(bench, slurm, tmp_path):
    trials = bench.trials(bench.plan("seeds=[0]"), "supervised", "complementary")
    bench.run(trials)
    home = bench.elsewhere(tmp_path / "there")
    executor = make(home, executor="slurm", slurm={"memory_gb": 4})
    summary = bench.run(trials, home, executor)
    assert sorted(summary.done) == sorted(trial.id for trial in trials)
    assert_same_counts(counts_of(home), counts_of(bench.home))


@pytest.mark.slow
def test_a_preempted_trial_goes_on_with_the_same_bits(bench, slurm, tmp_path):
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=150"), "supervised")
    bench.run([trial])
    home = bench.elsewhere(tmp_path / "there")
    with sweeping(bench, [trial], home, make(home, executor="slurm", slurm={"memory_gb": 4})):
        wait_until(lambda: is_training(home, trial), "a few steps", 120)
        (job_id,) = slurm.queued()
        slurm.run("scancel", "--signal=SIGUSR2", job_id)
        wait_until(lambda: slurm.job(job_id)["JobState"] == "PENDING", "requeued")
        slurm.start_soon(job_id)
    assert_same_counts(counts_of(home), counts_of(bench.home))
    assert started(home, trial) == [False, True]


@pytest.mark.slow
def test_a_trial_over_two_machines_has_the_counts_of_two_processes_here(bench, slurm, tmp_path):
    trials = bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']"), "supervised")
    here, there = bench.elsewhere(tmp_path / "here"), bench.elsewhere(tmp_path / "there")
    bench.run(trials, here, make(here, executor="local", gpus=[], slots=1, processes=2))
    bench.run(trials, there, make(there, executor="slurm", slurm={"memory_gb": 4, "nodes": 2}))
    assert_same_counts(counts_of(there), counts_of(here))


@pytest.mark.slow
def test_a_sweep_through_ray_survives_the_loss_of_a_node(bench, ray_nodes, tmp_path):
    """The worker on the lost node notices, hands back its lease, and the trial goes on on the other node."""
    trials = bench.trials(bench.plan("seeds=[0, 1]", "budgets=['masks:2p']", "training.steps=150"), "supervised")
    bench.run(trials)
    home = bench.elsewhere(tmp_path / "there")
    one_a_node = {"address": ray_nodes.address, "cpus": 2}
    executor = make(home, executor="ray", threads=1, checkpoint_minutes=0.02, ray=one_a_node)
    with sweeping(bench, trials, home, executor) as summaries:
        wait_until(lambda: all(has_checkpoint(home, trial) for trial in trials), "a checkpoint of each", 120)
        ray_nodes.lose(OTHER)
    assert sorted(summaries[0].done) == sorted(trial.id for trial in trials)
    assert_same_counts(counts_of(home), counts_of(bench.home))
    assert sorted(started(home, trial) for trial in trials) == [[False], [False, True]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_killed_worker_is_started_again_with_the_same_bits(bench, tmp_path, name, request):
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=150"), "supervised")
    bench.run([trial])
    home = bench.elsewhere(tmp_path / "there")
    cluster = request.getfixturevalue({"slurm": "slurm", "ray": "ray_nodes"}[name])
    own = {"slurm": {"memory_gb": 4}} if name == "slurm" else {"ray": {"address": cluster.address}}
    executor = make(home, executor=name, checkpoint_minutes=0.02, **own)
    with sweeping(bench, [trial], home, executor) as summaries:
        wait_until(lambda: has_checkpoint(home, trial), "a checkpoint", 120)
        os.kill(holder_of(task_folder(home, TaskKind.TRIAL, trial.id)).pid, signal.SIGKILL)
    assert summaries[0].done == (trial.id,)
    assert_same_counts(counts_of(home), counts_of(bench.home))
    assert started(home, trial) == [False, True]
