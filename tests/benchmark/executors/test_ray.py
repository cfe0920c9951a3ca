"""The Ray executor on a real cluster of two nodes; the tasks do what a test wants."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager

import pytest

from tests.clusters.ray import HEAD, OTHER
from tests.clusters.standin import collect, is_alive, wait_until, worlds_of
from tissuebench.errors import ConfigError
from tissuebench.plans.compute import ComputeSettings
from tissuebench.sweep.jobs import Outcome

pytest.importorskip("ray")

from tissuebench.executors.ray import RayExecutor


def settings(cluster, **ray) -> ComputeSettings:
    return ComputeSettings.model_validate({"executor": "ray", "ray": {"address": cluster.address, "cpus": 2, **ray}})


@contextmanager
def executor_for(cluster, tasks, **ray):
    executor = RayExecutor(settings(cluster, **ray), tasks[0].job.home)
    try:
        for task in tasks:
            executor.start(task.job)
        yield executor
    finally:
        executor.close()


def test_tasks_run_on_both_nodes_and_each_end_arrives(ray_nodes, tasks):
    made = tasks(1, 2, 3)
    with executor_for(ray_nodes, made, gpus=1) as executor:
        wait_until(lambda: sum(bool(task.begun) for task in made) == 2, "two tasks run, the third waits")
        assert executor.poll(0) == []
        for task, outcome in zip(made, (Outcome.DONE, Outcome.FAILED, Outcome.STALLED), strict=True):
            task.end(outcome)
        ended = collect(executor, 3)
    assert [ended[task.job.key].outcome for task in made] == ["done", "failed", "stalled"]
    begun = [task.begun[0] for task in made]
    assert {each["place"] for each in begun} == {HEAD, OTHER}
    assert all(len(each["gpus"]) == 1 for each in begun)
    assert [each["memory"] for each in begun] == [None] * 3


def test_a_killed_task_is_lost_and_can_be_started_again(ray_nodes, tasks):
    (task,) = tasks(1)
    with executor_for(ray_nodes, [task]) as executor:
        os.kill(task.begins()[0]["pid"], signal.SIGKILL)
        ended = collect(executor, 1)[task.job.key]
        assert ended.outcome is Outcome.LOST
        assert "WorkerCrashedError" in ended.detail
        executor.start(task.job)
        task.begins(2)
        task.end()
        assert collect(executor, 1)[task.job.key].outcome is Outcome.DONE


def test_a_node_that_dies_loses_its_task_which_runs_again_elsewhere(ray_nodes, tasks):
    made = tasks(1, 2)
    with executor_for(ray_nodes, made) as executor:
        places = {task.begins()[0]["place"]: task for task in made}
        lost, kept = places[OTHER], places[HEAD]
        ray_nodes.lose(OTHER)
        ended = collect(executor, 1)
        assert ended.keys() == {lost.job.key}
        assert ended[lost.job.key].outcome is Outcome.LOST
        wait_until(lambda: not is_alive(lost.begun[0]["pid"]), "the process of the lost node is gone")
        executor.start(lost.job)
        kept.end()
        lost.begins(2)
        lost.end()
        assert {each.outcome for each in collect(executor, 2).values()} == {Outcome.DONE}
    assert [each["place"] for each in lost.begun] == [OTHER, HEAD]
    assert len(kept.begun) == 1


def test_stop_withdraws_what_waits_and_what_runs_hands_back(ray_nodes, tasks):
    made = tasks(1, 2, 3)
    with executor_for(ray_nodes, made) as executor:
        wait_until(lambda: sum(bool(task.begun) for task in made) == 2, "two tasks run, the third waits")
        executor.stop()
        ended = collect(executor, 3)
    assert {each.outcome for each in ended.values()} == {Outcome.INTERRUPTED}
    assert sorted(each.detail for each in ended.values()) == ["cancelled", "was asked to", "was asked to"]


def test_close_ends_what_runs(ray_nodes, tasks):
    made = tasks(1, 2)
    with executor_for(ray_nodes, made):
        for task in made:
            task.begins()
    for task in made:
        task.end()
    with executor_for(ray_nodes, tasks(3)) as executor:  # there is room again
        tasks(3)[0].begins()
        tasks(3)[0].end()
        collect(executor, 1)


def test_several_gpus_are_several_processes_of_one_machine(ray_nodes, tasks):
    (task,) = tasks(1)
    with executor_for(ray_nodes, [task], cpus=1, gpus=2, resources={f"node:{OTHER}": 0.01}) as executor:
        (begun,) = task.begins()
        assert begun["place"] == OTHER
        assert begun["gpus"] == ["0", "1"]
        assert begun["threads"] == 1
        worlds = worlds_of([begun])
        assert [(world.rank, world.local_rank, world.size) for world in worlds] == [(0, 0, 2), (1, 1, 2)]
        task.end()
        collect(executor, 1)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.2:9", "no-such-host.invalid:6379"])
def test_no_cluster_is_one_line(address, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"compute\.ray\.address: no Ray cluster at") as raised:
        RayExecutor(ComputeSettings.model_validate({"ray": {"address": address}}), tmp_path)
    assert "\n" not in str(raised.value)


def test_something_else_at_the_address_is_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr("tissuebench.executors.ray._ANSWER_SECONDS", 5)
    with socket.create_server((HEAD, 0)) as server:
        address = f"{HEAD}:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match="answers, but not as a Ray cluster"):
            RayExecutor(ComputeSettings.model_validate({"ray": {"address": address}}), tmp_path)
