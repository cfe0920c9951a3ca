"""Deterministic algorithms are used where they are promised, recorded, and left as they were."""

import os

import pytest
import torch

from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.plans.trial import identity_of_training
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.runtime.determinism import deterministic_algorithms, is_deterministic, prepare_process
from tissuebench.runtime.machine import detect_machine
from tissuebench.training import fit as fitting

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("setting", "device", "expected"),
    [(None, CPU, True), (None, GPU, False), (True, GPU, True), (False, CPU, False), (False, GPU, False)],
)
def test_by_default_on_cpus_only(setting, device, expected):
    assert is_deterministic(setting, device) is expected


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize("tries_kernels", [True, False])
def test_the_process_is_left_as_it_was_even_after_an_error(monkeypatch, tries_kernels):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", tries_kernels)
    before = state()
    with deterministic_algorithms(False):
        assert state() == before
    with pytest.raises(ZeroDivisionError), deterministic_algorithms(True):
        assert state() == (True, False, False)
        raise ZeroDivisionError
    assert state() == before


def test_cublas_is_told_unless_the_user_has(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    prepare_process()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    prepare_process()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_it_is_no_part_of_the_identity():
    """It decides the last bits, like the device, which is none either; both are recorded."""
    assert identity_of_training(TrainingSettings(deterministic=True)) == identity_of_training(TrainingSettings())


@pytest.mark.parametrize("setting", ["null", "false"])
def test_training_and_scoring_use_it_and_the_result_says_so(bench, monkeypatch, setting):
    seen, trainer = [], fitting._trainer

    def watched(*arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return trainer(*arguments)

    monkeypatch.setattr(fitting, "_trainer", watched)
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", f"training.deterministic={setting}")
    assert not bench.run(bench.trials(plan, "supervised")).failed
    (result,) = ResultStore(results_folder(bench.home)).load()
    assert seen == [setting == "null"]
    assert result.environment["deterministic"] is (setting == "null")
    assert result.environment["precision"] == detect_machine(EncoderMode.FINETUNE).precision
    assert result.environment["device"] == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()
