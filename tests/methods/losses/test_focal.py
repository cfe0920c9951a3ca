"""Focal loss: golden values, its formula, its ends (sure, wrong, unlabelled)."""

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
from tissuebench.methods.losses.focal import focal_loss

GOLDEN = Path(__file__).parents[2] / "golden"
GAMMAS = [0.0, 0.25, 0.5, 1.0, 2.0, 3.5]


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "diffusion_finetune_losses.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def close(actual, expected, rtol=1e-9, atol=1e-13):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def sure_of(classes, gap, n_classes=4):
    """Logits (B, K, H, W) float32 of which those of the given classes are above all others by ``gap``."""
    return (functional.one_hot(classes, n_classes).movedim(-1, 1) * gap).float().requires_grad_()


@pytest.mark.parametrize("case", ["c4", "c4absent", "c2", "c4f64"])
@pytest.mark.parametrize(("gamma", "name"), [(2.0, "focal_g2"), (0.0, "ce")])
def test_golden(arrays, case, gamma, name):
    tolerance = {"rtol": 1e-12} if case == "c4f64" else {"rtol": 1e-6}
    close(focal_loss(arrays[f"{case}_logits"], arrays[f"{case}_target"], gamma), arrays[f"{case}_{name}"], **tolerance)


@examples(40)
@given(st.integers(0, 2**31), st.sampled_from(GAMMAS), st.sampled_from([0.0, 0.3, 0.9]))
def test_is_its_formula_on_the_labelled_pixels(seed, gamma, ignored):
    logits, masks = labelled_logits(seed, ignored)
    labelled = masks != IGNORE_LABEL
    p = logits.softmax(dim=1).movedim(1, -1)[labelled]
    p = p.gather(1, masks[labelled][:, None])
    loss = focal_loss(logits, masks, gamma)
    close(loss, (-((1 - p) ** gamma) * p.log()).mean(), rtol=1e-8)
    assert loss <= focal_loss(logits, masks, 0.0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_is_that_of_finite_differences(gamma):
    logits, masks = labelled_logits(1)
    small = logits[:2, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, masks[:2, :3, :3], gamma), small)


def test_without_gamma_it_is_the_projects_cross_entropy():
    from tissuebench.methods.api.method import (
        masked_cross_entropy,  # slow to import, which the two processes need not do
    )

    logits, masks = labelled_logits(2, dtype=torch.float32)
    close(focal_loss(logits, masks, 0.0), masked_cross_entropy(logits, masks), rtol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("gap", [200, 1e4])
def test_sure_and_right_is_flat(gamma, gap):
    """p is 1: the slope of (1 - p)^gamma is infinite for gamma < 1, the loss is not."""
    _, masks = labelled_logits(3)
    classes = masks.masked_fill(masks == IGNORE_LABEL, 0) % 4
    logits = sure_of(classes, gap)
    loss = focal_loss(logits, masks.where(masks == IGNORE_LABEL, classes), gamma)
    assert loss == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("gap", [200, 1e4])
def test_sure_and_wrong_costs_the_gap(gamma, gap):
    classes = torch.randint(0, 4, (2, 5, 5), generator=torch.Generator().manual_seed(4))
    logits = sure_of(classes, gap)
    loss = focal_loss(logits, (classes + 1) % 4, gamma)
    close(loss, torch.tensor(float(gap)), rtol=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = functional.one_hot(classes, 4) - functional.one_hot((classes + 1) % 4, 4)
    close(gradient, expected.movedim(-1, 1).float() / 50, atol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_any_logits_have_a_finite_gradient(gamma, scale):
    logits, masks = labelled_logits(5, dtype=torch.float32)
    logits = (logits * scale).requires_grad_()
    loss = focal_loss(logits, masks, gamma)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_ignored_pixels_have_exactly_no_gradient(gamma):
    logits, masks = labelled_logits(6)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(focal_loss(logits, masks, gamma), logits)
    nowhere = (masks == IGNORE_LABEL)[:, None].expand_as(gradient)
    assert nowhere.any() and (gradient[nowhere] == 0).all() and (gradient[~nowhere] != 0).all()
    nothing = focal_loss(logits, torch.full_like(masks, IGNORE_LABEL), gamma)
    assert nothing == 0
    assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_ignoring_rows_is_cutting_them_out():
    logits, masks = labelled_logits(7, 0.0)
    ignored = masks.clone()
    ignored[:, 2:4] = IGNORE_LABEL
    keep = [0, 1, 4, 5]
    close(focal_loss(logits, ignored), focal_loss(logits[:, :, keep], masks[:, keep]))


def test_what_has_no_meaning_is_refused():
    logits, masks = labelled_logits(9)
    with pytest.raises(ValueError, match="gamma"):
        focal_loss(logits, masks, -1.0)
