"""Random logits and masks for losses of masks."""

import torch

from tissuebench.datasets.types import IGNORE_LABEL


def labelled_logits(seed, ignored=0.3, dtype=torch.float64, scale=3):
    """Logits (4, 5, 6, 7), and masks (4, 6, 7) of which a share is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, 6, 7, generator=generator, dtype=dtype) * scale
    masks = torch.randint(0, 5, (4, 6, 7), generator=generator)
    return logits, masks.masked_fill(torch.rand(masks.shape, generator=generator) < ignored, IGNORE_LABEL)
