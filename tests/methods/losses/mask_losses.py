"""What the tests of losses of masks share."""

import torch

from tissuebench.datasets.types import IGNORE_LABEL


def labelled_logits(seed, ignored=0.3, dtype=torch.float64, scale=3):
    """Logits (4, 5, 6, 7), and masks (4, 6, 7) of which a share is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, 6, 7, generator=generator, dtype=dtype) * scale
    masks = torch.randint(0, 5, (4, 6, 7), generator=generator)
    return logits, masks.masked_fill(torch.rand(masks.shape, generator=generator) < ignored, IGNORE_LABEL)


def on_part(loss_of, part, seed=10):
    """Losses and gradients of a linear network on some tiles of a batch of five; the last two have few labels, or none.

    Args:
        loss_of: of logits and masks.
        part: slice of the batch.
        seed: of the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64)
    masks = torch.randint(0, 4, (5, 6, 6), generator=generator)
    few, none = masks.clone(), masks.clone()
    few[3:, 1:] = IGNORE_LABEL
    none[3:] = IGNORE_LABEL
    found = []
    for targets in (few, none, torch.full_like(masks, IGNORE_LABEL)):
        weight = torch.eye(4, 3, dtype=torch.float64).requires_grad_()
        loss = loss_of(torch.einsum("kc,bchw->bkhw", weight, features[part]), targets[part])
        loss.backward()
        found += [loss.item(), *weight.grad.flatten().tolist()]
    return found
