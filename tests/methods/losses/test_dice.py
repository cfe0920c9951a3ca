"""Soft Dice loss: golden values, its formula, ignored pixels, its ends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.methods.losses.mask_losses import labelled_logits
from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.dice import class_dice_losses, soft_dice_loss

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "action_dice_sup.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(np.asarray(found[key])) for key in found.files}


def close(actual, expected, rtol=1e-9, atol=1e-13):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, check_dtype=False)


def test_golden(arrays):
    logits, masks = arrays["logits"], arrays["target"]
    close(soft_dice_loss(logits, masks), arrays["dice_loss"], rtol=1e-6)
    close(class_dice_losses(logits, masks), arrays["dice_per_class"], rtol=1e-6)
    background = soft_dice_loss(logits, torch.zeros_like(masks))
    close(background, arrays["dice_loss_all_background_target"], rtol=1e-6)


def test_golden_of_the_supervised_loss_and_its_gradient(arrays):
    from tissuebench.methods.api.method import (
        masked_cross_entropy,  # slow to import, which the two processes need not do
    )

    logits, masks = arrays["logits"].clone().requires_grad_(), arrays["target"]
    total = 0.5 * (masked_cross_entropy(logits, masks) + soft_dice_loss(logits, masks))
    close(total, arrays["sup"], rtol=1e-6)
    close(torch.autograd.grad(total, logits)[0], arrays["grad_logits_sup"], rtol=1e-4, atol=1e-8)


@examples(40)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.97, 1.0]))
def test_ignored_pixels_are_as_cut_out(seed, ignored):
    logits, masks = labelled_logits(seed, ignored)
    logits.requires_grad_()
    labelled = masks != IGNORE_LABEL
    p = logits.movedim(1, -1)[labelled].softmax(dim=1)
    y = functional.one_hot(masks[labelled], 5).to(p.dtype)
    expected = 1 - (2 * (p * y).sum(0) + 1e-5) / (p.square().sum(0) + y.sum(0) + 1e-5)
    losses = class_dice_losses(logits, masks)
    close(losses, expected)
    loss = soft_dice_loss(logits, masks)
    close(loss, expected.mean())
    gradient, wanted = (torch.autograd.grad(each, logits)[0] for each in (loss, expected.mean()))
    close(gradient, wanted)
    assert (gradient[~labelled[:, None].expand_as(gradient)] == 0).all()
    assert 0 <= loss < 1


def test_gradient_is_that_of_finite_differences():
    logits, masks = labelled_logits(1)
    small = logits[:2, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_dice_loss(z, masks[:2, :3, :3]), small)


def in_one_row(maps):
    """(1, C, 1, B H W) of (B, C, H, W)."""
    return maps.movedim(1, 0).flatten(1)[None, :, None]


def test_sums_are_those_of_the_batch_not_of_tiles():
    logits, masks = labelled_logits(2)
    alone = soft_dice_loss(in_one_row(logits), in_one_row(masks[:, None])[:, 0])
    close(soft_dice_loss(logits, masks), alone)
    tiles = torch.stack([soft_dice_loss(logits[[n]], masks[[n]]) for n in range(4)])
    assert (tiles.mean() - alone).abs() > 1e-3


@pytest.mark.parametrize("n_classes", [4, 5])
@pytest.mark.parametrize("gap", [50, 1e4])
def test_perfect_is_zero_absent_classes_as_well(n_classes, gap):
    _, masks = labelled_logits(3)
    classes = masks.masked_fill(masks == IGNORE_LABEL, 0) % 4
    logits = (functional.one_hot(classes, n_classes).movedim(-1, 1) * gap).float().requires_grad_()
    loss = soft_dice_loss(logits, masks.where(masks == IGNORE_LABEL, classes))
    assert 0 <= loss < 1e-6
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


@pytest.mark.parametrize("gap", [50, 1e4])
def test_all_wrong_is_one(gap):
    classes = torch.randint(0, 4, (2, 6, 6), generator=torch.Generator().manual_seed(4))
    logits = (functional.one_hot(classes, 4).movedim(-1, 1) * gap).float()
    close(soft_dice_loss(logits, (classes + 1) % 4), torch.tensor(1.0), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("ignored", [0.0, 0.99])
def test_any_logits_have_a_finite_gradient(dtype, scale, ignored):
    logits, masks = labelled_logits(5, ignored, torch.float32)
    logits = (logits * scale).to(dtype).requires_grad_()
    loss = soft_dice_loss(logits, masks)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
