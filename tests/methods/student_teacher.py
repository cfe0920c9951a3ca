"""Helpers for methods with a student and a teacher: both networks, a seeded step, comparison of states."""

import pytest
import torch

PAPER = {"network": "paper"}
NETWORKS = pytest.mark.parametrize("network", [{}, PAPER], ids=["matched", "paper"])


def loss_of(method, batch, seed=3):
    torch.manual_seed(seed)
    return method.training_step(batch, 0)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
