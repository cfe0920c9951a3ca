"""Small denoising stages, pictures to train them on, and stand-ins for their network."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tissuebench.datasets.types import TileBatch
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.denoising.pretraining import TISSUE, Denoising, DenoisingSettings
from tissuebench.methods.denoising.schedule import NoiseSchedule
from tissuebench.methods.networks.settings import EncoderMode

PX, STEPS = 32, 5
TINY = {"network": "paper", "width": 8, "multipliers": (1, 2)}
NETWORKS = pytest.mark.parametrize("network", [{}, TINY], ids=["matched", "paper"])


def made(mode=EncoderMode.FINETUNE, steps=STEPS, **settings):
    torch.manual_seed(0)
    training = TrainingSettings(steps=steps, batch_size=4)
    task = replace(make_task(mode), training=training, tile_px=PX)
    return Denoising(task, DenoisingSettings(**settings))


def pictures(count=4, size=PX, seed=0):
    """Floats in 0..1."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def step_on(stage, images):
    """The loss of one training step."""
    return stage.training_step({TISSUE: TileBatch(step=0, images=images)}, 0)


class Oracle(nn.Module):
    """Knows the images, (B, 3, H, W) in -1..1, hence the noise; remembers the steps that it was asked for."""

    def __init__(self, images, schedule=None):
        super().__init__()
        self.images, self.abar = images, (schedule or NoiseSchedule()).alphas_cumprod
        self.asked = []

    def forward(self, noisy, t):
        self.asked.append(t)
        abar = self.abar[t].view(-1, 1, 1, 1)
        return (noisy - abar.sqrt() * self.images) / (1 - abar).sqrt()


class Remembering(nn.Module):
    """Sees no noise anywhere, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, noisy, t):
        self.seen.append((noisy, t))
        return torch.zeros_like(noisy)
