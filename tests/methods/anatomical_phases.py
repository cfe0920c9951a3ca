"""Small stages and methods of anatomical contrast, and batches for them."""

from dataclasses import replace

import torch

from tissuebench.datasets.types import IGNORE_LABEL, TileBatch
from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.methods.api.contract import CLASS_MAP, make_task
from tissuebench.methods.contrastive.settings import GlobalSettings, LocalSettings
from tissuebench.methods.contrastive.stages import GlobalDistillation, LocalDistillation
from tissuebench.methods.networks.settings import EncoderMode

K = len(CLASS_MAP)
SMALL = {"representation": 8, "queries": 8, "negatives": 8, "queue": 6}


def made(kind=AnatomicalContrast, seed=0, mode=EncoderMode.FINETUNE, px=64, **config):
    torch.manual_seed(seed)
    small = SMALL if kind is AnatomicalContrast else {}
    return kind(replace(make_task(mode), tile_px=px), kind.Config(**{**small, **config}))


def stage_made(kind=GlobalDistillation, seed=0, px=64, **config):
    torch.manual_seed(seed)
    of = LocalSettings if kind is LocalDistillation else GlobalSettings
    return kind(replace(make_task(), tile_px=px), of(**{"queue": 6, **config}))


def unlabelled(count=3, px=64, seed=0):
    images = torch.randint(0, 256, (count, 3, px, px), generator=torch.Generator().manual_seed(seed))
    return TileBatch(step=0, images=images.to(torch.uint8))


def annotated(count=2, px=64, seed=1):
    masks = torch.randint(0, K + 1, (count, px, px), generator=torch.Generator().manual_seed(seed))
    return replace(unlabelled(count, px, seed), masks=masks.masked_fill(masks == K, IGNORE_LABEL))


def learning_names(module):
    return {
        name for name, parameter in module.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
