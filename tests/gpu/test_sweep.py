"""Sweeps on a device: slots that share a GPU, two GPUs for a trial, and one trial that fills it."""

from __future__ import annotations

import pytest
import torch

from tissuebench.executors.local import LocalExecutor
from tissuebench.methods.api.registry import register
from tissuebench.methods.supervised import Supervised
from tissuebench.plans.compute import ComputeSettings
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.state.journal import read_journal

_FULL = (
    "CUDA out of memory. Tried to allocate 8.00 TiB. GPU 0 has a total capacity of 15.77 GiB of which 1 GiB is free."
)


@register
class Filling(Supervised):
    name = "filling_in_a_test"
    summary = "asks for more memory than a GPU has"

    def training_step(self, batch, batch_idx):
        if self.device.type == "cpu":
            raise torch.OutOfMemoryError(_FULL)
        return torch.empty(1 << 43, dtype=torch.uint8, device=self.device).float().sum()


@pytest.fixture
def swept(bench, device, monkeypatch):
    """Runs two trials of two steps in worker processes on the device, and hands back their results."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(n_gpus, **compute):
        trials = bench.trials(bench.plan("seeds=[0,1]", "budgets=['masks:2p']", "training.steps=2"), "supervised")
        gpus = tuple(range(n_gpus)) if device.type == "cuda" else ()
        summary = bench.run(trials, executor=LocalExecutor(ComputeSettings(gpus=gpus, **compute), bench.home))
        assert (len(summary.done), summary.failed) == (2, ()), bench.seen.changes
        results = ResultStore(results_folder(bench.home)).load()
        assert all(result.environment["device"].split()[0] == device.type for result in results)
        return results

    return run


@pytest.mark.slow_on_cpu
def test_two_slots_share_a_device(swept):
    assert all(result.environment["processes"] == 1 for result in swept(1, slots=2))


@pytest.mark.slow_on_cpu
def test_two_devices_train_a_trial_together(swept, device):
    if device.type == "cuda" and (there := torch.cuda.device_count()) < 2:
        pytest.skip(f"NCCL needs two GPUs, this machine has {there}")
    assert all(result.environment["processes"] == 2 for result in swept(2, slots=1, processes=2))


def test_a_trial_that_fills_the_device_fails_in_one_line_and_the_next_goes_on(bench, device):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=1")
    summary = bench.run(bench.trials(plan, "filling_in_a_test") + bench.trials(plan, "supervised"))
    (failure,) = ResultStore(results_folder(bench.home)).read_failures()
    assert (len(summary.done), len(summary.failed)) == (1, 1)
    assert failure.reason.startswith("out of GPU memory (asked for 8")
    assert "lower training.batch_size" in failure.reason and "\n" not in failure.reason
    events = read_journal(bench.home / "runs" / "trials" / failure.trial_id)
    assert [event["reason"] for event in events if event["event"] == "failed"] == [failure.reason]
    (result,) = ResultStore(results_folder(bench.home)).load()
    assert result.environment["device"].split()[0] == device.type
