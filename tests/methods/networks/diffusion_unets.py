"""Small noise predictors of GenSelfDiff-HIS, with random images and time steps."""

import torch

from tissuebench.methods.networks.diffusion_unet import DiffusionUNet

MULTIPLIERS = (1, 1, 2)
OPTIONS = [{}, {"patch": 2}, {"fullres_skip": True}, {"patch": 2, "fullres_skip": True, "out_channels": 5}]
T = torch.tensor([3, 700])


def small(seed=0, **options):
    torch.manual_seed(seed)
    return DiffusionUNet(**{"width": 16, "multipliers": MULTIPLIERS, **options}).eval()


def images(height=16, width=16, n=2, seed=1):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def relative_error(found, expected):
    return ((found.float() - expected).norm() / expected.norm()).item()
