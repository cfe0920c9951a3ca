"""Precision: what the hardware has, what a stage allows and what a user wants; recorded, and no part of an identity."""

from __future__ import annotations

import pytest
import torch

from tests.benchmark.sweeps import run_inline
from tissuebench.errors import ConfigError
from tissuebench.methods.api import all_methods
from tissuebench.methods.api.registry import register
from tissuebench.methods.networks.settings import Architecture, EncoderMode
from tissuebench.methods.pseudo_labels.tag_stages import ClassifierSettings, TagClassification
from tissuebench.methods.supervised import Supervised
from tissuebench.plans.compute import Precision
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.runtime.precision import BF16, FP16, FP32, autocast, choose_precision
from tissuebench.sweep.graph import build_graph

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
P100, V100, A100 = ((6, 0), False), ((7, 0), False), ((8, 0), True)
AUTO, FINETUNE = Precision.AUTO, EncoderMode.FINETUNE


@register
class Undeclared(Supervised):
    name = "undeclared_in_a_test"
    summary = "a plug-in that inherits a loss and replaces it"

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class Inheriting(Supervised):
    name = "inheriting_in_a_test"
    summary = "a plug-in that leaves the loss as it is"


@pytest.fixture
def card(monkeypatch):
    def there(capability, has_bf16):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation
        )
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-16GB")

    return there


@pytest.mark.parametrize(
    ("kind", "wanted", "allows", "expected", "remark"),
    [
        (A100, AUTO, False, BF16, ""),
        (V100, AUTO, True, FP16, ""),
        (V100, AUTO, False, FP32, "this GPU has no bf16, and it does not declare half_precision"),
        (P100, AUTO, True, FP32, ""),
        (P100, AUTO, False, FP32, ""),
        (A100, Precision.FP32, True, FP32, ""),
        (A100, Precision.FP16, True, FP16, ""),
        (A100, Precision.FP16, False, FP32, "not as compute.precision says"),
        (P100, Precision.FP16, True, FP16, ""),
        (A100, Precision.BF16, False, BF16, ""),
    ],
)
def test_of_a_gpu(card, kind, wanted, allows, expected, remark):
    card(*kind)
    chosen, said = choose_precision(GPU, FINETUNE, wanted, allows)
    assert chosen == expected
    assert remark in said and bool(remark) == bool(said)


def test_bf16_is_refused_where_it_would_be_emulated(card):
    card(*V100)
    with pytest.raises(ConfigError, match=r"^compute\.precision bf16: Tesla V100-SXM2-16GB has no bf16; use auto"):
        choose_precision(GPU, FINETUNE, Precision.BF16, True)


@pytest.mark.parametrize(
    ("wanted", "allows", "expected"),
    [
        (Precision.FP32, True, FP32),
        (Precision.BF16, False, BF16),
        (Precision.FP16, True, FP16),
        (Precision.FP16, False, FP32),
    ],
)
def test_a_cpu_computes_in_what_is_asked_for(wanted, allows, expected):
    assert choose_precision(CPU, EncoderMode.FROZEN, wanted, allows)[0] == expected
    assert choose_precision(CPU, EncoderMode.FROZEN, AUTO, True) == (FP32, "")


@pytest.mark.parametrize(("precision", "dtype"), [(FP32, torch.float32), (BF16, torch.bfloat16), (FP16, torch.float16)])
def test_networks_compute_in_it(precision, dtype):
    with autocast(CPU, precision):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


def test_a_class_with_a_loss_of_its_own_must_declare_it():
    assert Supervised.allows_float16(Supervised.Config())
    assert Inheriting.allows_float16(Inheriting.Config())
    assert not Undeclared.allows_float16(Undeclared.Config())


def test_of_the_methods_only_networks_that_were_not_tried_are_left_out():
    methods = {name: kind for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench.")}
    left_out = {name for name, kind in methods.items() if not kind.allows_float16(kind.Config())}
    assert left_out == {"multilayer_pseudo_published"}
    assert TagClassification.allows_float16(ClassifierSettings())
    assert not TagClassification.allows_float16(ClassifierSettings(backbone=Architecture.PAPER))


def test_a_plan_decides_and_the_result_says_so_under_the_same_id(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=2", "compute.precision=fp16")
    trials = bench.trials(plan, "supervised", "undeclared_in_a_test")
    auto = bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=2"), "supervised")
    assert auto[0].id in {trial.id for trial in trials}
    graph = build_graph(trials, bench.data, bench.home, precision=plan.compute.precision)
    assert set(graph) == set(build_graph(trials, bench.data, bench.home))
    assert not run_inline(graph, bench.home).failed
    results = {result.method: result.environment for result in ResultStore(results_folder(bench.home)).load()}
    assert results["supervised"]["precision"] == FP16
    assert "notes" not in results["supervised"]
    assert results["undeclared_in_a_test"]["precision"] == FP32
    (note,) = results["undeclared_in_a_test"]["notes"]
    assert note.startswith("computed in float32, not as compute.precision says")
