"""What every loss of masks promises: ignored pixels, extreme logits, narrow types, shapes."""

import pytest
import torch

from tests.methods.losses.mask_losses import labelled_logits
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.dice import soft_dice_loss
from tissuebench.methods.losses.focal import focal_loss
from tissuebench.methods.losses.poly_log import poly_log_loss
from tissuebench.methods.losses.structural_similarity import structural_similarity_loss
from tissuebench.methods.losses.tversky import tversky_loss

LOSSES = pytest.mark.parametrize(
    "loss_of", [focal_loss, poly_log_loss, soft_dice_loss, structural_similarity_loss, tversky_loss]
)


@LOSSES
def test_ignored_pixels_have_exactly_no_gradient(loss_of):
    logits, masks = labelled_logits(6)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(logits, masks), logits)
    nowhere = (masks == IGNORE_LABEL)[:, None].expand_as(gradient)
    assert nowhere.any() and (gradient[nowhere] == 0).all() and (gradient[~nowhere] != 0).any()


@LOSSES
def test_without_labels_it_is_zero_and_connected(loss_of):
    logits, masks = labelled_logits(6)
    logits.requires_grad_()
    nothing = loss_of(logits, torch.full_like(masks, IGNORE_LABEL))
    assert nothing == 0
    assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


@LOSSES
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_any_logits_have_a_finite_gradient(loss_of, scale):
    logits, masks = labelled_logits(5, dtype=torch.float32)
    logits = (logits * scale).requires_grad_()
    loss = loss_of(logits, masks)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


@LOSSES
def test_evaluated_in_float32_at_least(loss_of):
    logits, masks = labelled_logits(8)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = logits.to(dtype)
        loss = loss_of(narrow, masks)
        assert loss.dtype == torch.float32 and loss.shape == ()
        assert torch.equal(loss, loss_of(narrow.float(), masks))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss_of(narrow.float(), masks), loss)
    assert loss_of(logits, masks).dtype == torch.float64


@LOSSES
def test_shapes_that_do_not_fit_are_refused(loss_of):
    logits, masks = labelled_logits(9)
    for wrong in (masks[0], masks[:3], masks[..., :6], masks[:, None]):
        with pytest.raises(ValueError, match="masks"):
            loss_of(logits, wrong)
    with pytest.raises(ValueError, match="logits"):
        loss_of(logits[:, :, 0], masks)
