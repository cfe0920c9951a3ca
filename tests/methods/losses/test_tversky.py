"""Tversky loss of whole tiles: golden values, the published formula at any beta, its ends (sure, wrong, unlabelled)."""

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
from tissuebench.methods.losses.tversky import tversky_loss

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "diffusion_finetune_losses.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def published(logits, masks, beta, smooth):
    """The formula with both kinds of error, tile by tile, from the labelled pixels alone."""
    found = []
    for tile, mask in zip(logits.softmax(dim=1).movedim(1, -1), masks, strict=True):
        labelled = mask != IGNORE_LABEL
        if labelled.any():
            p, y = tile[labelled], functional.one_hot(mask[labelled], tile.shape[-1])
            hits, false, missed = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
            found.append(1 - (hits + smooth) / (hits + beta * false + (1 - beta) * missed + smooth))
    return torch.stack(found).mean()


@pytest.mark.parametrize("case", ["c4", "c4absent", "c2", "c4f64"])
def test_golden(arrays, case):
    loss = tversky_loss(arrays[f"{case}_logits"], arrays[f"{case}_target"])
    torch.testing.assert_close(loss, arrays[f"{case}_tversky_b0.75"], rtol=1e-12 if case == "c4f64" else 1e-6, atol=0)


@examples(40)
@given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.1, 1.0, 30.0]))
def test_is_the_published_formula_at_any_beta(seed, beta, ignored, smooth):
    logits, masks = labelled_logits(seed, ignored)
    if (masks == IGNORE_LABEL).all():
        return
    torch.testing.assert_close(
        tversky_loss(logits, masks, smooth), published(logits, masks, beta, smooth), rtol=1e-9, atol=1e-13
    )


def test_gradient_is_that_of_finite_differences():
    logits, masks = labelled_logits(1)
    small = logits[:2, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: tversky_loss(z, masks[:2, :3, :3]), small)


@pytest.mark.parametrize("gap", [200.0, 1e4])
def test_sure_and_right_is_nothing_and_sure_and_wrong_is_all_but_the_smoothing(gap):
    classes = torch.randint(0, 4, (2, 5, 5), generator=torch.Generator().manual_seed(4))
    logits = functional.one_hot(classes, 4).movedim(-1, 1) * gap
    assert tversky_loss(logits, classes) == 0
    torch.testing.assert_close(tversky_loss(logits, (classes + 1) % 4), torch.tensor(25 / 26))


def test_unlabelled_pixels_and_tiles_do_not_count():
    logits, masks = labelled_logits(6)
    masks[1] = IGNORE_LABEL
    logits.requires_grad_()
    loss = tversky_loss(logits, masks)
    (gradient,) = torch.autograd.grad(loss, logits)
    nowhere = (masks == IGNORE_LABEL)[:, None].expand_as(gradient)
    assert (gradient[nowhere] == 0).all() and (gradient[~nowhere] != 0).all()
    keep = [0, 2, 3]
    torch.testing.assert_close(loss, tversky_loss(logits[keep], masks[keep]))
    nothing = tversky_loss(logits, torch.full_like(masks, IGNORE_LABEL))
    assert nothing == 0
    assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_what_has_no_meaning_is_refused():
    logits, masks = labelled_logits(9)
    with pytest.raises(ValueError, match="smooth"):
        tversky_loss(logits, masks, 0.0)
