"""Every method starts from the same network for the same seed, whatever else it builds, and in whatever order."""

from dataclasses import replace

import pytest
import torch

from tissuebench.methods.api import all_methods, build_segmenter
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.networks import ImageEncoder, build_encoder
from tissuebench.methods.networks.segmenter import Segmenter

SHIPPED = {name: kind for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench.")}


def built(module, task, config, seed=3):
    torch.manual_seed(seed)
    return module(task, config)


def state(part):
    return {name: value.clone() for name, value in part.state_dict().items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def matched(kind):
    fields = kind.Config.model_fields
    return kind.Config(**{name: "matched" for name in ("network", "backbone") if name in fields})


@pytest.fixture(scope="module")
def start():
    """Encoder and decoder that ``supervised`` starts from."""
    supervised = SHIPPED["supervised"]
    network = built(supervised, make_task(), supervised.Config()).network
    return state(network.encoder), state(network.decoder)


@pytest.mark.parametrize("name", SHIPPED)
def test_last_stage_and_all_stages_before_it_start_from_the_weights_of_supervised(name, start):
    task, config = make_task(), matched(SHIPPED[name])
    stages = SHIPPED[name].stages(config, task.training)
    modules = [built(SHIPPED[name], task, config)]
    modules += [built(stage.module, replace(task, training=stage.training), stage.config) for stage in stages]
    assert isinstance(modules[0].network, Segmenter)
    for module in modules:
        for network in (part for part in module.modules() if isinstance(part, ImageEncoder)):
            assert same_bits(state(network.encoder), start[0]), type(module)
            if isinstance(network, Segmenter):
                assert same_bits(state(network.decoder), start[1]), type(module)


def test_the_weights_are_those_of_the_seed_whatever_was_drawn_before():
    settings = make_task().network
    torch.manual_seed(5)
    first, encoder = state(build_segmenter(settings, 4)), state(build_encoder(settings).encoder)
    drawn = torch.rand(3)
    torch.rand(17)
    again, another = state(build_segmenter(settings, 4)), state(build_segmenter(settings, 4, number=1))
    assert same_bits(first, again)
    assert not same_bits(first, another)
    assert all(torch.equal(first[f"encoder.{name}"], value) for name, value in encoder.items())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)  # the global generator is where it was
    torch.manual_seed(6)
    assert not same_bits(first, state(build_segmenter(settings, 4)))
