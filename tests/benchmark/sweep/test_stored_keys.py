"""Keys of trials and stages are what stored results are found by: a renamed module or class must not change them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tissuebench.bench import BenchRequest, prepare
from tissuebench.methods.api.registry import all_methods
from tissuebench.methods.api.stage import Trainable
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.complementary import Complementary
from tissuebench.methods.denoising.pretraining import Denoising

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "keys_of_tasks.json").read_text())


@pytest.mark.parametrize("plan", ["smoke", "diffusion", "standard"])
def test_keys_are_those_that_results_are_stored_under(tiny_data, plan):
    """Where the same inputs give another number than before, raise PROTOCOL_VERSION and make the file anew."""
    replaced = ('datasets=["folder"]', 'compute.executor="inline"')
    if plan == "standard":  # its weights are those of the hub
        replaced += ("network.weights=none",)
    graph = prepare(BenchRequest((), plan, tiny_data.home, (), {"folder": tiny_data.root}, replaced)).graph
    lost = {key: title for key, title in GOLDEN[plan].items() if key not in graph}
    assert not lost
    assert set(graph) == set(GOLDEN[plan])


def test_every_stage_that_ships_says_its_kind_and_none_says_anothers():
    found = {}
    for method in all_methods().values():
        if method.__module__.startswith("tissuebench."):
            for stage in method.stages(method.Config(), TrainingSettings()):
                assert "kind" in vars(stage.module), stage.module
                found.setdefault(stage.module.kind, set()).add(stage.module)
    assert len(found) >= 5
    assert all(len(modules) == 1 for modules in found.values()), found


def test_a_stage_without_a_kind_is_known_by_module_and_name_also_below_one_that_has_it():
    class Mine(Denoising):
        pass

    assert Denoising.kind == "tissuebench.methods.denoising.pretraining:Denoising"
    assert Mine.kind == f"{__name__}:{Mine.__qualname__}"
    assert Complementary.kind == f"{Complementary.__module__}:Complementary"
    assert issubclass(Mine, Trainable)
