"""The fused exclusion loss against its formula in double precision, sample by sample and as a whole batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.methods.losses import exclusion
from tissuebench.methods.losses.exclusion import exclusion_loss, probability_of


def exact(logits, against, towards, gamma):
    """Return loss and gradient of its sum in double precision."""
    z = logits.detach().double().requires_grad_()
    u, v = (weights.double().log()[:, :, None, None] for weights in (against, towards))
    d = torch.logsumexp(z + u, 1) - torch.logsumexp(z + v, 1)
    log_q = torch.nn.functional.logsigmoid(-d)
    loss = (gamma * torch.nn.functional.logsigmoid(d)).exp() * -log_q
    loss.sum().backward()
    return loss.detach(), z.grad


@st.composite
def situations(draw, classes=5):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 3.0, 80.0, 1e4]))
    logits = torch.randn(3, classes, 4, 4, generator=generator) * scale
    weights = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=classes, max_size=classes).filter(any)
    against, towards = (torch.tensor([draw(weights) for _ in range(3)]) for _ in range(2))
    return logits, against, towards, draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))


def of_batch(logits, against, towards, gamma):
    loss, slope = exclusion._of_batch(logits.detach(), torch.stack([against, towards]), gamma)
    return loss, slope


def of_samples(logits, against, towards, gamma):
    z = logits.detach().requires_grad_()
    loss = exclusion_loss(z, against, towards, gamma)
    loss.sum().backward()
    return loss.detach(), z.grad


@pytest.mark.parametrize("way", [of_samples, of_batch])
@examples(80)
@given(situations())
def test_value_and_gradient_are_the_formulas(way, situation):
    loss, gradient = way(*situation)
    expected, slope = exact(*situation)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_nothing_against_a_sample_is_no_loss_and_no_gradient(gamma):
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    against, towards = torch.tensor([[0.0, 0, 0], [1, 0, 0]]), torch.tensor([[1.0, 1, 1], [0, 1, 1]])
    for way in (of_samples, of_batch):
        loss, gradient = way(logits, against, towards, gamma)
        assert (loss[0] == 0).all()
        assert (gradient[0] == 0).all()
        assert (loss[1] > 0).all()


def test_a_wide_gap_in_one_pixel_does_not_change_the_others():
    logits = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    against = torch.tensor([[0.0, 0, 1, 1]])
    loss = exclusion_loss(logits, against, 1 - against, 2.0)
    logits[0, 2, 0, 0] = 500.0  # one sum of this pixel underflows: the sample is computed with two shifts
    apart = exclusion_loss(logits, against, 1 - against, 2.0)
    assert apart[0, 0, 0] > 400
    torch.testing.assert_close(apart.flatten()[1:], loss.flatten()[1:], rtol=1e-5, atol=1e-6)


def test_classes_without_a_weight_are_not_read():
    logits = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    against, towards = torch.tensor([[0.0, 0, 0, 1]]), torch.tensor([[0.0, 1, 0, 0]])
    expected = of_samples(logits, against, towards, 2.0)
    logits[:, ::2] = torch.nan
    loss, gradient = of_samples(logits, against, towards, 2.0)
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])


def test_it_is_differentiated_once():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    against = torch.tensor([[1.0, 0, 0]])
    (gradient,) = torch.autograd.grad(
        exclusion_loss(logits, against, 1 - against, 2.0).sum(), logits, create_graph=True
    )
    assert not gradient.requires_grad


def test_probability_of_a_set():
    logits = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(3))
    chosen = torch.tensor([False, True, False, True, True])
    torch.testing.assert_close(probability_of(logits, chosen), logits.softmax(1)[:, chosen].sum(1))
    assert probability_of(logits[:0], chosen).shape == (0, 4, 4)
