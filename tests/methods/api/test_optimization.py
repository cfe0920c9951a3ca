"""Optimisers and schedules: torch's own, with the settings as they are written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim import lr_scheduler as schedulers

from tissuebench.errors import ConfigError
from tissuebench.methods.api.contract import make_batch, make_task
from tissuebench.methods.api.optimization import build_optimizer, build_schedule
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.supervised import Supervised

STEPS, RATE = 40, 0.02


class Pair(nn.Module):
    """An encoder and a head of one weight each."""

    def __init__(self, name="encoder"):
        super().__init__()
        self.network = nn.Module()
        setattr(self.network, name, nn.Linear(3, 3))
        self.network.head = nn.Linear(3, 3)

    def forward(self, x):
        encoder, head = self.network.children()
        return head(encoder(x).tanh())


def settings(**given):
    return TrainingSettings(steps=STEPS, learning_rate=RATE, **given)


def trained(build, steps=20):
    """Weights, rates and momenta of the first steps of a small network."""
    torch.manual_seed(0)
    module = Pair()
    data, target = torch.randn(8, 3), torch.randn(8, 3)
    optimizer, schedule = build(module)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        momenta.append([group.get("momentum", group.get("betas")) for group in optimizer.param_groups])
        optimizer.zero_grad()
        (module(data) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    return torch.cat([weight.detach().flatten() for weight in module.parameters()]), rates, momenta


def ours(training):
    def build(module):
        optimizer = build_optimizer(module, training)
        return optimizer, build_schedule(optimizer, training)

    return build


def theirs(optimizer, schedule):
    def build(module):
        made = optimizer(module)
        return made, schedule(made)

    return build


def one_cycle(optimizer, momentum=False):
    return schedulers.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1, pct_start=0.05, cycle_momentum=momentum)


SGD = {"optimizer": "sgd", "momentum": 0.9}
CASES = {
    "adamw, one cycle": ({}, lambda m: torch.optim.AdamW(m.parameters(), RATE, weight_decay=1e-4), one_cycle),
    "adam of another beta, constant": (
        {"optimizer": "adam", "betas": (0.5, 0.999), "rate_schedule": "constant", "weight_decay": 0.0},
        lambda m: torch.optim.Adam(m.parameters(), RATE, (0.5, 0.999)),
        lambda o: schedulers.LambdaLR(o, lambda _: 1.0),
    ),
    "adam's decay is a penalty": (
        {"optimizer": "adam", "rate_schedule": "cosine", "weight_decay": 0.1},
        lambda m: torch.optim.Adam(m.parameters(), RATE, weight_decay=0.1),
        lambda o: schedulers.CosineAnnealingLR(o, STEPS),
    ),
    "sgd, polynomial": (
        {**SGD, "weight_decay": 5e-4, "rate_schedule": "polynomial"},
        lambda m: torch.optim.SGD(m.parameters(), RATE, 0.9, weight_decay=5e-4),
        lambda o: schedulers.LambdaLR(o, lambda step: (1 - step / STEPS) ** 0.9),
    ),
    "nesterov, linear": (
        {**SGD, "nesterov": True, "weight_decay": 1e-4, "rate_schedule": "polynomial", "power": 1.0},
        lambda m: torch.optim.SGD(m.parameters(), RATE, 0.9, weight_decay=1e-4, nesterov=True),
        lambda o: schedulers.LinearLR(o, 1.0, 0.0, STEPS),
    ),
    "sgd, one cycle of rate and momentum": (
        {**SGD, "cycle_momentum": True, "weight_decay": 0.0},
        lambda m: torch.optim.SGD(m.parameters(), RATE, 0.9),
        lambda o: one_cycle(o, momentum=True),
    ),
    "adamw, one cycle of rate and beta": (
        {"cycle_momentum": True, "weight_decay": 0.0},
        lambda m: torch.optim.AdamW(m.parameters(), RATE, weight_decay=0.0),
        lambda o: one_cycle(o, momentum=True),
    ),
    "milestones": (
        {"rate_schedule": "milestones", "milestones": (0.25, 0.4), "drop": 0.5, "weight_decay": 0.0},
        lambda m: torch.optim.AdamW(m.parameters(), RATE, weight_decay=0.0),
        lambda o: schedulers.MultiStepLR(o, [10, 16], 0.5),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_twenty_rates_momenta_and_weights_are_those_of_torch(case):
    given, optimizer, schedule = CASES[case]
    weights, rates, momenta = trained(ours(settings(**given)))
    expected_weights, expected_rates, expected_momenta = trained(theirs(optimizer, schedule))
    torch.testing.assert_close(torch.tensor(rates), torch.tensor(expected_rates), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.tensor(momenta), torch.tensor(expected_momenta), rtol=1e-12, atol=0)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-7)  # fused sums in another order
    start = torch.cat([weight.flatten() for weight in _untrained().parameters()])
    assert (weights - start).abs().min() > 1e-6


def _untrained():
    torch.manual_seed(0)
    return Pair()


@pytest.mark.parametrize("name", ["encoder", "backbone"])
@pytest.mark.parametrize("schedule", ["one_cycle", "polynomial", "constant"])
def test_the_head_learns_at_a_multiple_of_the_encoders_rate_throughout(name, schedule):
    module, training = Pair(name), settings(head_rate=10, rate_schedule=schedule)
    optimizer = build_optimizer(module, training)
    encoder, head = optimizer.param_groups
    assert [id(p) for p in encoder["params"]] == [id(p) for p in getattr(module.network, name).parameters()]
    assert [id(p) for p in head["params"]] == [id(p) for p in module.network.head.parameters()]
    scheduler = build_schedule(optimizer, training)
    for step in range(STEPS):
        assert head["lr"] == pytest.approx(10 * encoder["lr"], rel=1e-9)
        if schedule == "polynomial":
            assert encoder["lr"] == pytest.approx(RATE * (1 - step / STEPS) ** 0.9)
        optimizer.step()
        scheduler.step()


def test_a_frozen_encoder_leaves_the_head_its_own_rate():
    module = Pair()
    module.network.encoder.requires_grad_(False)
    (group,) = build_optimizer(module, settings(head_rate=10, rate_schedule="constant")).param_groups
    assert group["lr"] == pytest.approx(10 * RATE) and len(group["params"]) == 2


def test_without_an_encoder_there_is_no_rate_of_a_head():
    with pytest.raises(ConfigError, match=r"training.head_rate 10: Linear has no encoder"):
        build_optimizer(nn.Linear(2, 2), settings(head_rate=10))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"momentum": 0.9}, "momentum has no effect with optimizer adamw"),
        ({"optimizer": "sgd", "nesterov": True}, "nesterov has no effect with optimizer sgd, momentum 0"),
        ({"optimizer": "sgd", "betas": (0.5, 0.9)}, "betas has no effect"),
        ({"power": 2.0}, "power has no effect .* rate_schedule one_cycle"),
        ({"rate_schedule": "cosine", "cycle_momentum": True}, "cycle_momentum has no effect"),
        ({"drop": 0.5}, "drop has no effect"),
        ({"rate_schedule": "milestones", "milestones": (0.7, 0.2)}, "they must increase"),
        ({"epochs": 0}, "greater than 0"),
        ({"gradient_clip": 0}, "greater than 0"),
    ],
)
def test_settings_without_effect_are_refused(given, says):
    with pytest.raises(ValidationError, match=says):
        TrainingSettings(**given)


@pytest.mark.parametrize(("n_tiles", "batch", "steps"), [(1, 8, 5), (8, 8, 5), (9, 8, 10), (100, 8, 65)])
def test_epochs_are_as_many_steps_as_a_loader_takes_that_keeps_the_last_batch(n_tiles, batch, steps):
    training = TrainingSettings(epochs=5, batch_size=batch)
    assert training.resolved(n_tiles).steps == steps
    loader = torch.utils.data.DataLoader(range(n_tiles), batch_size=batch, shuffle=True)
    assert 5 * len(loader) == steps
    assert TrainingSettings(steps=7).resolved(n_tiles).steps == 7


def test_the_gradient_is_clipped_only_if_the_settings_say_so_and_its_norm_is_logged_either_way():
    for clip in (0.001, None):
        task = replace(make_task(), training=TrainingSettings(steps=20, batch_size=2, gradient_clip=clip))
        torch.manual_seed(0)
        method = Supervised(task, Supervised.Config())
        method.training_step(make_batch(method), 0).backward()
        before = torch.nn.utils.get_total_norm([p.grad for p in method.parameters() if p.grad is not None])
        method.logs_step = True
        method.configure_gradient_clipping(None, task.training.gradient_clip)
        after = torch.nn.utils.get_total_norm([p.grad for p in method.parameters() if p.grad is not None])
        assert float(method.logged["train/gradient_norm"]) == pytest.approx(float(before), rel=1e-5)
        assert float(after) == pytest.approx(float(before) if clip is None else clip, rel=1e-3)
