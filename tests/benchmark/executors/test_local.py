"""How GPUs and cores are dealt out to slots."""

from __future__ import annotations

import pytest

from tissuebench.errors import ConfigError
from tissuebench.plans.compute import ComputeSettings
from tissuebench.runtime import gpus
from tissuebench.runtime.gpus import Slot, slots_of


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Eight cores and four GPUs."""
    monkeypatch.setattr(gpus, "_gpus_of_this_machine", lambda: ["0", "1", "2", "3"])
    monkeypatch.setattr(gpus, "allotted_cores", lambda: 8)


@pytest.mark.parametrize(
    ("settings", "slots"),
    [
        ({}, [Slot((gpu,), 2, 1) for gpu in "0123"]),
        ({"gpus": (2,)}, [Slot(("2",), 8, 1)]),
        ({"slots": 2}, [Slot(("0", "2"), 2, 2), Slot(("1", "3"), 2, 2)]),
        ({"processes": 2}, [Slot(("0", "2"), 2, 2), Slot(("1", "3"), 2, 2)]),
        ({"slots": 1, "processes": 4}, [Slot(("0", "1", "2", "3"), 2, 4)]),
        (
            {"gpus": (0, 1), "slots": 4},
            [Slot(("0",), 2, 1), Slot(("1",), 2, 1), Slot(("0",), 2, 1), Slot(("1",), 2, 1)],
        ),
        ({"slots": 2, "processes": 1}, [Slot(("0",), 2, 1), Slot(("1",), 2, 1)]),
        ({"gpus": ()}, [Slot((), 1, 1)] * 8),
        ({"gpus": (), "threads": 4}, [Slot((), 4, 1)] * 2),
        ({"gpus": (), "processes": 2}, [Slot((), 1, 2)] * 4),
        ({"gpus": (), "slots": 3}, [Slot((), 1, 1)] * 3),
    ],
)
def test_slots(settings, slots):
    assert slots_of(ComputeSettings(**settings)) == slots


def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match=r"^compute\.gpus: this machine has no GPU 7, it has 4$"):
        slots_of(ComputeSettings(gpus=(1, 7)))


def test_more_processes_than_gpus_is_one_line():
    with pytest.raises(ConfigError, match=r"^compute\.processes: 3 processes per trial need as many GPUs in each slot"):
        slots_of(ComputeSettings(processes=3, slots=2))


def test_processes_of_a_slot_meet_at_one_port():
    one, two = Slot((), 1, 2).worlds()
    assert (one.rank, two.rank, one.size, two.size) == (0, 1, 2, 2)
    assert one.port == two.port > 0
    assert Slot().worlds()[0].size == 1
