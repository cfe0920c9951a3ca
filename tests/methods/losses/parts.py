"""Losses and gradients of a part of a batch of five, for each loss that several processes may share."""

from functools import partial
from itertools import product

import torch

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.contrastive.distillation import WindowAnchors, distillation_loss, window_distillation_loss
from tissuebench.methods.denoising.schedule import NoiseSchedule, Reduction, denoising_loss
from tissuebench.methods.losses.consistency import weighted_consistency_loss
from tissuebench.methods.losses.dice import soft_dice_loss
from tissuebench.methods.losses.focal import focal_loss
from tissuebench.methods.losses.multi_target import MultiTarget, multi_target_cross_entropy
from tissuebench.methods.losses.poly_log import poly_log_loss
from tissuebench.methods.losses.structural_similarity import SimilarityForm, structural_similarity_loss
from tissuebench.methods.losses.tversky import tversky_loss


def _random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def of_consistency(part):
    """Losses and gradients of a linear network on some tiles of a batch of five; the last two have few labels."""
    generator = torch.Generator().manual_seed(10)
    features = torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (5, 6, 6), generator=generator)
    confidence = 1 - 0.1 * torch.rand(5, 6, 6, generator=generator, dtype=torch.float64)
    few, none = labels.clone(), labels.clone()
    few[3:, 1:] = IGNORE_LABEL
    none[3:] = IGNORE_LABEL
    found = []
    for targets in (few, none, torch.full_like(labels, IGNORE_LABEL)):
        weight = torch.eye(4, 3, dtype=torch.float64).requires_grad_()
        logits = torch.einsum("kc,bchw->bkhw", weight, features[part])
        loss = weighted_consistency_loss(logits, targets[part], confidence[part])
        loss.backward()
        found += [loss.item(), *weight.grad.flatten().tolist()]
    return found


def of_distillation(part):
    """Losses and gradients of linear networks on some images of a batch of five, in order and shuffled."""
    queue = _random(7, 4, 6, seed=22)
    found = []
    for anchors, learns, order in product((None, *WindowAnchors), (False, True), ([0, 1, 2, 3, 4], [3, 0, 4, 1, 2])):
        places = torch.tensor(order)[part]
        weight, head = (_random(6, 3, seed=seed).requires_grad_() for seed in (23, 24))
        student, teacher = (_random(5, 4, 3, seed=20 + i)[places] @ each.T for i, each in enumerate((weight, head)))
        if anchors is None:
            loss = distillation_loss(student[:, 0], teacher[:, 0], queue[:, 0], teacher_learns=learns)
        else:
            loss = window_distillation_loss(student, teacher, queue, 0.1, 0.05, anchors, learns, places)
        loss.backward()
        assert (head.grad is not None) == learns
        found += [loss.item(), *weight.grad.flatten().tolist(), *(head.grad.flatten().tolist() if learns else [])]
    return found


def of_multi_target(part):
    """Losses and gradients of a linear network on some tiles of a batch of five; the last two have few labels."""
    generator = torch.Generator().manual_seed(8)
    features = torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (5, 3, 6, 6), generator=generator)
    targets[3:, :, 1:] = IGNORE_LABEL
    targets[3:, 0] = IGNORE_LABEL  # of one layer, the second process has none
    found = []
    for form in MultiTarget:
        weight = torch.eye(4, 3, dtype=torch.float64).requires_grad_()
        logits = torch.einsum("kc,bchw->bkhw", weight, features[part])
        loss = multi_target_cross_entropy(logits, targets[part], (0.2, 0.2, 0.6), form)
        loss.backward()
        found += [loss.item(), *weight.grad.flatten().tolist()]
    return found


def of_noise_schedule(part):
    """Losses and gradients of a scaled prediction on some samples of a batch of five."""
    generator = torch.Generator().manual_seed(3)
    predicted, noise = (torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = NoiseSchedule().weights(torch.tensor([0, 100, 400, 700, 999])).double()
    found = []
    for reduction in Reduction:
        scale = torch.ones(3, 1, 1, dtype=torch.float64, requires_grad=True)
        loss = denoising_loss(predicted[part] * scale, noise[part], weights[part], reduction)
        loss.backward()
        found += [loss.item(), *scale.grad.flatten().tolist()]
    return found


def of_structural_similarity(part):
    """The same of both forms of the loss, one after the other."""
    return [
        each
        for form in SimilarityForm
        for each in on_part(partial(structural_similarity_loss, form=form), part, seed=11)
    ]


LOSSES = {  # by the file that tests each alone
    "test_consistency": of_consistency,
    "test_dice": partial(on_part, soft_dice_loss),
    "test_distillation": of_distillation,
    "test_focal": partial(on_part, focal_loss),
    "test_multi_target": of_multi_target,
    "test_schedule": of_noise_schedule,
    "test_poly_log": partial(on_part, poly_log_loss),
    "test_structural_similarity": of_structural_similarity,
    "test_tversky": partial(on_part, tversky_loss),
}
