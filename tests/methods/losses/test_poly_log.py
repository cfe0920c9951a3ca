"""PolyLog loss: golden values, its formula, its two minima, its ends (sure, wrong, unlabelled)."""

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
from tissuebench.methods.losses.poly_log import poly_log_loss

GOLDEN = Path(__file__).parents[2] / "golden"
GAMMAS = [1.0, 2.0, 3.5]


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "diffusion_finetune_losses.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def of_probability(p, gamma):
    """The loss of one pixel of two classes that the right one has probability p."""
    logits = torch.stack([torch.tensor(p), torch.tensor(1 - p)]).double().log().reshape(1, 2, 1, 1)
    return poly_log_loss(logits, torch.zeros(1, 1, 1, dtype=torch.int64), gamma).item()


@pytest.mark.parametrize("case", ["c4", "c4absent", "c2", "c4f64"])
def test_golden(arrays, case):
    loss = poly_log_loss(arrays[f"{case}_logits"], arrays[f"{case}_target"])
    torch.testing.assert_close(loss, arrays[f"{case}_polylog_g2"], rtol=1e-12 if case == "c4f64" else 1e-6, atol=0)


@examples(40)
@given(st.integers(0, 2**31), st.sampled_from(GAMMAS), st.sampled_from([0.0, 0.3]))
def test_is_its_formula_on_the_labelled_pixels(seed, gamma, ignored):
    logits, masks = labelled_logits(seed, ignored)
    labelled = masks != IGNORE_LABEL
    p = logits.softmax(dim=1).movedim(1, -1)[labelled].gather(1, masks[labelled][:, None])
    expected = ((1 - p) ** gamma * (p.log() - (1 - p).log()).abs()).mean()
    torch.testing.assert_close(poly_log_loss(logits, masks, gamma), expected, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_is_that_of_finite_differences(gamma):
    logits, masks = labelled_logits(1)
    small = logits[:2, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: poly_log_loss(z, masks[:2, :3, :3], gamma), small)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_nothing_at_one_half_and_a_small_rise_behind_it(gamma):
    assert of_probability(0.5, gamma) == 0
    assert 0 < of_probability(0.7, gamma) < of_probability(0.3, gamma)
    assert of_probability(0.999, gamma) < of_probability(0.7, gamma)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("gap", [200.0, 1e4])
def test_sure_and_right_is_flat_and_sure_and_wrong_costs_the_gap(gamma, gap):
    classes = torch.randint(0, 4, (2, 5, 5), generator=torch.Generator().manual_seed(4))
    logits = (functional.one_hot(classes, 4).movedim(-1, 1) * gap).float().requires_grad_()
    right = poly_log_loss(logits, classes, gamma)
    assert right == 0
    assert (torch.autograd.grad(right, logits)[0] == 0).all()
    wrong = poly_log_loss(logits, (classes + 1) % 4, gamma)
    torch.testing.assert_close(wrong, torch.tensor(gap), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(wrong, logits)
    expected = functional.one_hot(classes, 4) - functional.one_hot((classes + 1) % 4, 4)
    torch.testing.assert_close(gradient, expected.movedim(-1, 1).float() / 50)


def test_what_has_no_meaning_is_refused():
    logits, masks = labelled_logits(9)
    with pytest.raises(ValueError, match="K >= 2"):
        poly_log_loss(logits[:, :1], masks)
    with pytest.raises(ValueError, match="gamma"):
        poly_log_loss(logits, masks, 0.5)
