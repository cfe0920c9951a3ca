"""Small mean teachers, and the loss and gradients of one step."""

from dataclasses import replace

import torch

from tests.methods.student_teacher import loss_of
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.mean_teacher import MeanTeacher
from tissuebench.methods.networks.settings import EncoderMode

PLAIN = {"color": 0, "hue": 0, "blur": 0, "feature_dropout": 0}


def made(kind=MeanTeacher, seed=0, mode=EncoderMode.FINETUNE, px=64, **config):
    torch.manual_seed(seed)
    return kind(replace(make_task(mode), tile_px=px), kind.Config(**config))


def learning(**config):
    """A method whose warm-up is over, in training."""
    return made(**{"warm_up": 0, **config}).train()


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def loss_and_gradients(method, batch):
    loss = loss_of(method, batch)
    loss.backward()
    return loss.detach(), gradients(method.network)
