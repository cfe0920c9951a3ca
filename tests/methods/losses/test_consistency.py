"""Consistency with a teacher's labels: golden values, weights of images, ignored pixels, its ends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.consistency import confident_share, weighted_consistency_loss

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "action_unsup.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(np.asarray(found[key])) for key in found.files}


def close(actual, expected, rtol=1e-9, atol=1e-13):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, check_dtype=False)


def random(seed, ignored=0.3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, 6, 7, generator=generator, dtype=dtype) * 2
    labels = torch.randint(0, 5, (4, 6, 7), generator=generator)
    labels = labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, IGNORE_LABEL)
    confidence = 1 - 0.1 * torch.rand(labels.shape, generator=generator, dtype=dtype)
    return logits, labels, confidence


@pytest.mark.parametrize("suffix", ["", "_with_ignore"])
def test_golden(arrays, suffix):
    """Official code marks ignored pixels by -1. Their confidence counts in its weights, of which one is above the
    share of sure pixels among the valid ones."""
    labels, confidence = arrays[f"pseudo_label{suffix}"], arrays["confidence"]
    labels = labels.masked_fill(labels < 0, IGNORE_LABEL)
    threshold = arrays["strong_threshold"].item()
    valid = labels != IGNORE_LABEL
    close(confident_share(confidence, valid, threshold), arrays[f"image_weight{suffix}"], rtol=1e-6)
    logits = arrays["pred_logits"].clone().requires_grad_()
    loss = weighted_consistency_loss(logits, labels, confidence, threshold)
    close(loss, arrays[f"loss{suffix}"], rtol=1e-6)
    if not suffix:
        close(torch.autograd.grad(loss, logits)[0], arrays["grad_pred"], rtol=1e-4, atol=1e-8)


@examples(40)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.97, 1.0]))
def test_is_its_formula_and_does_not_see_ignored_pixels(seed, ignored):
    logits, labels, confidence = random(seed, ignored)
    valid = labels != IGNORE_LABEL
    confidence = confidence * valid  # as after the padding of the official code
    total, count = torch.zeros((), dtype=torch.float64), 0
    for z, y, c, seen in zip(logits, labels, confidence, valid, strict=True):
        p = z.movedim(0, -1)[seen].softmax(dim=1)
        entropy = -p.gather(1, y[seen][:, None]).log()
        weight = (c[seen] >= 0.97).double().mean() if seen.any() else 0.0
        total, count = total + (weight * entropy).sum(), count + len(entropy)
    logits.requires_grad_()
    loss = weighted_consistency_loss(logits, labels, confidence)
    close(loss, total / max(count, 1))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[(~valid)[:, None].expand_as(gradient)] == 0).all()
    other = torch.where(valid[:, None], logits.detach(), 7.0)
    assert torch.equal(weighted_consistency_loss(other, labels, confidence), loss)


def test_all_sure_is_the_cross_entropy_and_none_sure_is_nothing():
    logits, labels, confidence = random(1)
    logits.requires_grad_()
    valid = labels != IGNORE_LABEL
    loss = weighted_consistency_loss(logits, labels, valid.double())
    close(loss, functional.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL))
    for low in (confidence.clamp(max=0.9699), torch.zeros_like(confidence)):
        nothing = weighted_consistency_loss(logits, labels, low)
        assert nothing == 0
        assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_images_without_weight_stay_in_the_mean():
    logits, labels, confidence = random(2, 0.0)
    confidence[:] = 1
    confidence[1] = 0.5
    three = [0, 2, 3]
    close(
        weighted_consistency_loss(logits, labels, confidence),
        weighted_consistency_loss(logits[three], labels[three], confidence[three]) * 3 / 4,
    )


def test_pixels_without_cross_entropy_leave_the_mean():
    logits, labels, confidence = random(3, 0.0)
    confidence[:] = 1
    before = weighted_consistency_loss(logits, labels, confidence)
    sure = logits.clone()
    sure[:, :, :3] = functional.one_hot(labels, 5).movedim(-1, 1)[:, :, :3] * 1e4
    after = weighted_consistency_loss(sure, labels, confidence)
    close(after, weighted_consistency_loss(logits[:, :, 3:], labels[:, 3:], confidence[:, 3:]))
    assert (after - before).abs() > 1e-3


def test_shares():
    confidence = torch.tensor([[[0.97, 0.96, 1.0, 0.2]]] * 3, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[[True] * 4], [[True, True, True, False]], [[False] * 4]])
    share = confident_share(confidence, valid)
    close(share[:2], torch.tensor([2 / 4, 2 / 3], dtype=torch.float64))
    assert not share.requires_grad
    assert confident_share(confidence * 0, valid).tolist() == [0, 0, 0]
    assert confident_share(confidence, valid, 0.1).tolist() == [1, pytest.approx(4 / 3), 4]  # as published


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("ignored", [0.0, 0.97, 1.0])
def test_any_logits_have_a_finite_gradient(dtype, scale, ignored):
    logits, labels, confidence = random(5, ignored, torch.float32)
    logits = (logits * scale).to(dtype).requires_grad_()
    loss = weighted_consistency_loss(logits, labels, confidence)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
    assert (loss > 0) == (ignored < 1)


def test_evaluated_in_float32_at_least():
    logits, labels, confidence = random(7)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = logits.to(dtype)
        loss = weighted_consistency_loss(narrow, labels, confidence)
        assert loss.dtype == torch.float32 and loss.shape == ()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss, weighted_consistency_loss(narrow, labels, confidence))
        assert torch.equal(loss, weighted_consistency_loss(narrow.float(), labels, confidence))
    assert weighted_consistency_loss(logits, labels, confidence).dtype == torch.float64
    assert confident_share(confidence.bfloat16(), labels < 5).dtype == torch.float32


def test_what_does_not_fit_is_refused():
    logits, labels, confidence = random(8)
    for wrong in (labels[0], labels[:3], labels[..., :6], labels[:, None]):
        with pytest.raises(ValueError, match="pseudo-labels"):
            weighted_consistency_loss(logits, wrong, confidence)
    for wrong in (confidence[0], confidence[:3], confidence[:, None]):
        with pytest.raises(ValueError, match="confidence"):
            weighted_consistency_loss(logits, labels, wrong)
