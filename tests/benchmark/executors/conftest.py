"""Real clusters, and nodes that do what a test wants."""

from __future__ import annotations

import pytest
from tests.clusters.slurm import slurm_cluster
from tests.clusters.standin import Node, stand_in


@pytest.fixture
def nodes(tmp_path):
    """Makes nodes in a home of their own."""
    home = tmp_path / "home"
    home.mkdir()
    return lambda *numbers: [Node.make(home, number) for number in numbers]


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
