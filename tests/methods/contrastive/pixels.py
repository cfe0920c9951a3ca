"""Random maps with labels, and the pixel contrast of a random sample of them."""

import torch
from torch.nn import functional

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.contrastive.pixel_contrast import (
    candidates,
    pixel_contrast_loss,
    pixel_rows,
    prototypes,
    relation,
    sample,
)


def close(actual, expected, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(seed=0, ignored=0.2, classes=4, dtype=torch.float64):
    """Representations (2, 6, 5, 7), labels and the student's probabilities, of which many are above 0.97."""
    generator = seeded(seed)
    maps = torch.randn(2, 6, 5, 7, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (2, 5, 7), generator=generator)
    logits = torch.randn(2, classes, 5, 7, generator=generator, dtype=dtype) * 3
    logits += functional.one_hot(labels, classes).movedim(-1, 1) * 4
    labels = labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, IGNORE_LABEL)
    return maps, labels, logits.softmax(dim=1)


def drawn(maps, labels, probabilities, n_queries=7, n_negatives=9, seed=0, temperature=0.5):
    """The loss with the prototypes and the sample that belong to it."""
    found, rows = candidates(labels, probabilities), pixel_rows(maps)
    means = prototypes(rows, labels, probabilities.shape[1])
    pairs = relation(means, found.present, temperature)
    sampled = sample(found, pairs, seeded(seed), n_queries, n_negatives)
    loss = pixel_contrast_loss(rows[sampled.queries], means, rows.detach(), sampled, temperature)
    return loss, sampled, means
