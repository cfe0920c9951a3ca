"""The SLURM executor on a real SLURM of two nodes without accounting; the tasks it runs do what a test wants."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import pytest

from tests.clusters.standin import collect, wait_until, worlds_of
from tissuebench.errors import ConfigError
from tissuebench.plans.compute import ComputeSettings
from tissuebench.sweep.jobs import Outcome

submitit = pytest.importorskip("submitit")

from tissuebench.executors.slurm import SlurmExecutor  # noqa: E402


def settings(**slurm) -> ComputeSettings:
    return ComputeSettings.model_validate({"executor": "slurm", "slurm": {"memory_gb": 1, **slurm}})


@contextmanager
def executor_for(tasks, compute=None):
    executor = SlurmExecutor(compute or settings(), tasks[0].job.home)
    try:
        for task in tasks:
            executor.start(task.job)
        yield executor
    finally:
        executor.close()


def test_an_array_of_jobs_runs_and_each_end_arrives(slurm, tasks):
    made = tasks(1, 2, 3, 4)
    with executor_for(made) as executor:
        assert executor.poll(0) == []
        ids = sorted(slurm.queued())
        assert len(ids) == 4
        assert len({job_id.partition("_")[0] for job_id in ids}) == 1
        made[0].begins()
        wait_until(lambda: slurm.job(ids[0])["JobName"] == "trial_1:_masks:2p_seed_0_", "the title in the queue")
        for task, outcome in zip(made, (Outcome.DONE, Outcome.FAILED, Outcome.STALLED, Outcome.HELD), strict=True):
            task.end(outcome)
        ended = collect(executor, 4)
    assert [ended[task.job.key].outcome for task in made] == ["done", "failed", "stalled", "held"]
    assert ended[made[0].job.key].detail == "was told to"
    (begun,) = made[0].begun
    assert begun["slurm"] == ["SLURM_CONF"]
    assert (begun["memory"], begun["stall"], begun["threads"]) == (int(0.95 * 2**30), 1800.0, 1)


def test_a_killed_job_is_noticed_without_accounting_and_can_be_started_again(slurm, tasks):
    (task,) = tasks(1)
    with executor_for([task]) as executor:
        executor.poll(0)
        os.kill(task.begins()[0]["pid"], signal.SIGKILL)
        ended = collect(executor, 1)[task.job.key]
        assert ended.outcome is Outcome.LOST
        assert "SLURM says FAILED, exit 137" in ended.detail
        executor.start(task.job)
        executor.poll(0)
        task.begins(2)
        task.end()
        assert collect(executor, 1)[task.job.key].outcome is Outcome.DONE


@pytest.mark.slow
def test_a_cancelled_job_and_one_that_the_queue_forgot_are_lost(slurm, tasks):
    made = tasks(1, 2, 3)
    with executor_for(made) as executor:
        executor.poll(0)
        made[0].begins()
        ids = sorted(slurm.queued())
        slurm.run("scancel", ids[0], ids[2])
        ended = collect(executor, 2)
        assert {each.outcome for each in ended.values()} == {Outcome.LOST}
        assert all("CANCELLED" in each.detail for each in ended.values())
        made[1].end()
        assert collect(executor, 1)[made[1].job.key].outcome is Outcome.DONE


@pytest.mark.parametrize("warning", [pytest.param("SIGUSR1", marks=pytest.mark.slow), "SIGUSR2", "SIGTERM"])
def test_a_warned_job_is_requeued_and_goes_on(slurm, tasks, warning):
    (task,) = tasks(1)
    with executor_for([task]) as executor:
        executor.poll(0)
        task.begins()
        (job_id,) = slurm.queued()
        slurm.run("scancel", f"--signal={warning}", job_id)
        wait_until(lambda: slurm.job(job_id)["JobState"] == "PENDING", "requeued")
        assert slurm.job(job_id)["Restarts"] == "1"
        assert executor.poll(0) == []
        slurm.start_soon(job_id)
        task.begins(2)
        task.end()
        assert collect(executor, 1)[task.job.key].outcome is Outcome.DONE
        assert len(task.begun) == 2


def test_a_job_that_makes_room_for_a_more_urgent_one_goes_on_afterwards(slurm, tasks):
    """SLURM's own preemption: SIGTERM, then a minute of grace, of which nothing is needed."""
    made = tasks(1, 2)
    with executor_for(made) as executor:
        executor.poll(0)
        for task in made:
            task.begins()
        ids = sorted(slurm.queued())
        urgent = slurm.run(
            "sbatch",
            "--parsable",
            "--partition=urgent",
            "--nodes=2",
            "--mem=9500",
            "--output=/dev/null",
            "--wrap=sleep 600",
        )
        wait_until(lambda: slurm.job(urgent)["JobState"] == "RUNNING", "the urgent job")
        wait_until(lambda: {slurm.job(job_id)["JobState"] for job_id in ids} == {"PENDING"}, "requeued, both")
        slurm.run("scancel", urgent)
        for job_id, task in zip(ids, made, strict=True):
            slurm.start_soon(job_id)
            task.begins(2)
            task.end()
        assert {each.outcome for each in collect(executor, 2).values()} == {Outcome.DONE}


def test_jobs_that_slurm_does_not_take_now_wait_for_those_it_has(slurm, tasks):
    """As where a site limits how many jobs may wait; refused with none of ours in the queue, it is hopeless."""
    first, second, third = tasks(1, 2, 3)
    with executor_for([first]) as executor:
        executor.poll(0)
        first.begins()
        slurm.run("scontrol", "update", "PartitionName=main", "State=INACTIVE")
        try:
            executor.start(second.job)
            assert executor.poll(0) == []
            assert len(slurm.queued()) == 1
            slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
            executor.poll(0)
            second.begins()
            first.end()
            second.end()
            assert {each.outcome for each in collect(executor, 2).values()} == {Outcome.DONE}
            slurm.run("scontrol", "update", "PartitionName=main", "State=INACTIVE")
            executor.start(third.job)
            with pytest.raises(ConfigError, match=r"SLURM does not accept jobs.*partition") as raised:
                executor.poll(0)
            assert "\n" not in str(raised.value)
        finally:
            slurm.run("scontrol", "update", "PartitionName=main", "State=UP")


def test_stop_cancels_what_waits_and_what_runs_hands_back_without_being_requeued(slurm, tasks):
    made = tasks(1, 2, 3)
    with executor_for(made) as executor:
        executor.poll(0)
        for task in made[:2]:
            task.begins()
        late = tasks(4)[0]
        executor.start(late.job)
        executor.stop()
        ended = collect(executor, 4)
        wait_until(lambda: not slurm.queued(), "an empty queue")
    assert {each.outcome for each in ended.values()} == {Outcome.INTERRUPTED}
    assert ended[made[0].job.key].detail == "was asked to"
    assert not made[2].begun
    assert not late.begun


def test_close_leaves_nothing_in_the_queue(slurm, tasks):
    made = tasks(1, 2, 3)
    with executor_for(made) as executor:
        executor.poll(0)
        made[0].begins()
    wait_until(lambda: not slurm.queued(), "an empty queue")


def test_a_trial_over_two_machines_is_a_task_on_each(slurm, tasks):
    (task,) = tasks(1)
    with executor_for([task], settings(nodes=2, gpus_per_node=1)) as executor:
        executor.poll(0)
        begun = task.begins(2)
        assert {each["place"] for each in begun} == {"n1", "n2"}
        assert [each["gpus"] for each in begun] == [["0"], ["0"]]
        worlds = worlds_of(begun)
        assert [(world.rank, world.local_rank, world.size) for world in worlds] == [(0, 0, 2), (1, 0, 2)]
        assert {world.address for world in worlds} == {"127.0.0.1"}
        assert len({world.port for world in worlds}) == 1
        task.end()
        assert collect(executor, 1)[task.job.key].outcome is Outcome.DONE


@pytest.mark.slow
def test_a_process_that_is_killed_takes_the_trial_with_it(slurm, tasks):
    (task,) = tasks(1)
    with executor_for([task], settings(nodes=2)) as executor:
        executor.poll(0)
        begun = {each["place"]: each for each in task.begins(2)}
        os.kill(begun["n2"]["pid"], signal.SIGKILL)
        assert collect(executor, 1)[task.job.key].outcome is Outcome.LOST


@pytest.mark.slow
def test_a_warned_trial_over_two_machines_is_requeued_once(slurm, tasks):
    (task,) = tasks(1)
    with executor_for([task], settings(nodes=2)) as executor:
        executor.poll(0)
        task.begins(2)
        (job_id,) = slurm.queued()
        slurm.run("scancel", "--signal=SIGUSR2", job_id)
        wait_until(lambda: slurm.job(job_id)["JobState"] == "PENDING", "requeued")
        slurm.start_soon(job_id)
        task.begins(4)
        task.end()
        assert collect(executor, 1)[task.job.key].outcome is Outcome.DONE
        assert slurm.job(job_id)["Restarts"] == "1"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"partition": "elsewhere"}, "Invalid partition name specified"),
        ({"gpus_per_node": 8}, "Requested node configuration is not available"),
        ({"minutes": 1, "signal_seconds": 90}, "signal_seconds"),
        ({"extra": {"no-such-option": 1}}, "no-such-option"),
    ],
)
def test_what_slurm_refuses_is_one_line(slurm, tasks, wrong, words):
    with pytest.raises(ConfigError, match=words) as raised:
        SlurmExecutor(settings(**wrong), tasks(1)[0].job.home)
    assert "compute.slurm" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_slurm_there_is_one_line(tasks, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch is not on PATH"):
        SlurmExecutor(settings(), tasks(1)[0].job.home)
