"""Real clusters, and tasks that do what a test wants."""

from __future__ import annotations

import pytest

from tests.clusters.ray import HEAD, OTHER, ray_cluster
from tests.clusters.slurm import slurm_cluster
from tests.clusters.standin import StandIn, stand_in


@pytest.fixture
def tasks(tmp_path):
    """Makes tasks in a home of their own."""
    home = tmp_path / "home"
    home.mkdir()
    return lambda *numbers: [StandIn.make(home, number) for number in numbers]


@pytest.fixture(scope="session")
def running_slurm():
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(running_slurm, monkeypatch, tmp_path):
    """The cluster, for this process and the jobs it submits; what a test leaves in the queue is cancelled."""
    for name, value in {**running_slurm.environment, **stand_in(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    yield running_slurm
    running_slurm.empty()


@pytest.fixture(scope="session")
def running_ray(tmp_path_factory):
    with ray_cluster(stand_in(tmp_path_factory.mktemp("stand-in"))) as cluster:
        yield cluster


@pytest.fixture
def ray_nodes(running_ray, monkeypatch):
    """The cluster with both nodes up, for this process."""
    for host in {HEAD, OTHER} - running_ray.raylets.keys():
        running_ray.join(host)
    for name, value in running_ray.environment.items():
        monkeypatch.setenv(name, value)
    return running_ray
