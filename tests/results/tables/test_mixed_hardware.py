"""Tables of results that were not all computed alike say so."""

from dataclasses import replace

import numpy as np
import pytest

from tissuebench.results.tables.leaderboard import build
from tissuebench.results.tables.mixed_hardware import notes_of_precision


@pytest.fixture
def trained(make_trial):
    def one(seed, **environment):
        return replace(make_trial("mine", seed=seed, rng=np.random.default_rng(seed)), environment=environment)

    return one


def test_alike_nothing_is_said(trained):
    alike = [trained(seed, precision="32-true", device="cpu") for seed in range(3)]
    assert notes_of_precision(alike) == []
    assert notes_of_precision([]) == []
    assert notes_of_precision([*alike, trained(3)]) == []  # it does not say


def test_several_precisions_and_devices_are_named(trained):
    results = [
        trained(0, precision="32-true", device="cpu"),
        trained(1, precision="bf16-mixed", device="cuda NVIDIA H200"),
        trained(2, precision="bf16-mixed", device="cuda NVIDIA A100"),
    ]
    precision, device = notes_of_precision(results)
    assert "trained in 32-true and bf16-mixed: " in precision
    assert "trained on cpu and cuda NVIDIA A100 and cuda NVIDIA H200: " in device
    assert precision in build(results).notes


def test_the_stages_of_a_trial_count(trained):
    earlier = {"distill": {"precision": "bf16-mixed", "device": "cpu", "deterministic": True}}
    (note,) = notes_of_precision([trained(0, precision="32-true", device="cpu", earlier_stages=earlier)])
    assert "32-true and bf16-mixed" in note


def test_datasets_are_told_apart(trained):
    one, other = trained(0, precision="32-true"), trained(1, precision="bf16-mixed")
    assert notes_of_precision([one, replace(other, dataset="another")]) == []
