"""The complementary losses against golden values and the properties that their formulas promise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.complementary import Form
from tissuebench.methods.losses.complementary import (
    conditional_set_wise,
    forward_corrected,
    pooled_mean,
    set_wise,
)
from tissuebench.methods.losses.observation import observation_probabilities

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def golden(name):
    with np.load(GOLDEN / f"complementary_{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(actual, expected, **tolerance):
    torch.testing.assert_close(actual.double(), expected.double(), **(tolerance or TOLERANCE))


def mean_of_samples(loss, valid):
    counts = valid.flatten(1).sum(1)
    sums = (loss * valid).flatten(1).sum(1)
    return (sums / counts.clamp(min=1))[counts > 0].mean()


@pytest.mark.parametrize("gamma", [0, 2])
def test_set_wise_golden(gamma):
    arrays = golden("setwise")
    logits = arrays["logits"].float().requires_grad_()
    comp, valid = arrays["comp"].bool(), ~arrays["ignore"].bool()
    valid = valid & comp.any(1)[:, None, None]
    loss = set_wise(logits, comp, gamma)
    close(loss * valid, arrays[f"loss_pixel_g{gamma}"])
    close(pooled_mean(loss, valid), arrays[f"loss_pixelmean_g{gamma}"])
    batch = mean_of_samples(loss, valid)
    close(batch, arrays[f"loss_batch_g{gamma}"])
    batch.backward()
    close(logits.grad, arrays[f"grad_logits_of_batch_g{gamma}"])


def test_set_wise_is_nlnl_for_one_excluded_class():
    arrays = golden("setwise")
    loss = set_wise(arrays["logits"].float(), arrays["comp"].bool(), 0)
    one = arrays["comp"].bool().sum(1) == 1
    valid = ~arrays["ignore"].bool()
    close((loss * valid)[one], arrays["loss_pixel_nlnl"][one])


def test_set_wise_with_one_class_left_is_cross_entropy_to_it():
    arrays = golden("setwise")
    logits = arrays["logits"].float()[3:4]
    target = torch.full((1, *logits.shape[2:]), 3)
    cross_entropy = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    close(set_wise(logits, arrays["comp"].bool()[3:4], 0), cross_entropy)


@pytest.mark.parametrize("matrix", ["Q", "Qu"])
@pytest.mark.parametrize("gamma", [0, 1, 2])
def test_forward_corrected_golden(matrix, gamma):
    arrays = golden("forwardQ")
    logits = arrays["logits"].float().requires_grad_()
    transition = arrays["Q" if matrix == "Q" else "Q_uniform"].float()
    column = transition[:, arrays["ybar"].long()].T
    keys = {kind: f"{matrix}_{kind}_g{gamma}" for kind in ("loss_pixel", "loss_batch", "grad_batch")}
    loss = forward_corrected(logits, column, gamma)
    close(loss, arrays[keys["loss_pixel"]])
    close(loss.mean(), arrays[keys["loss_batch"]])
    loss.mean().backward()
    close(logits.grad, arrays[keys["grad_batch"]])


def test_forward_corrected_reads_the_column_not_the_row():
    arrays = golden("forwardQ")
    logits, transition = arrays["logits"].float(), arrays["Q"].float()
    row = transition[arrays["ybar"].long(), :]
    loss = forward_corrected(logits, row, 2)
    assert not torch.allclose(loss.double(), arrays["Q_loss_pixel_g2"].double(), atol=1e-2)


def test_published_clipping_golden():
    arrays = golden("forwardQ")
    column = arrays["Q"].float()[:, arrays["ybar"].long()].T
    found = [key for key in arrays if "officialclip_pixel" in key and key.startswith("Q_")]
    assert found
    for key in found:
        gamma = int(key[-1])
        close(forward_corrected(arrays["logits"].float(), column, gamma, official_clip=True), arrays[key])


@pytest.mark.parametrize("gamma", [0, 2])
def test_total_golden(gamma):
    from tissuebench.methods.api.method import masked_cross_entropy

    arrays = golden("total")
    logits = arrays["logits"].float().requires_grad_()
    is_sup, comp = arrays["is_sup"].bool(), arrays["comp"].bool()
    supervised = masked_cross_entropy(logits[is_sup], arrays["target"].long()[is_sup])
    keep = ~is_sup & comp.any(1) & ~comp.all(1)
    weak = pooled_mean(set_wise(logits[keep], comp[keep], gamma), arrays["tissue"].bool()[keep])
    total = supervised + float(arrays["lam"]) * weak
    close(supervised, arrays["sup"])
    close(weak, arrays[f"comp_g{gamma}"])
    close(total, arrays[f"total_g{gamma}"])
    total.backward()
    close(logits.grad, arrays[f"grad_total_g{gamma}"])


@st.composite
def situations(draw, classes=5):
    seed = draw(st.integers(0, 2**31))
    scale = draw(st.sampled_from([0.1, 3.0, 80.0, 1e4]))
    logits = torch.randn(3, classes, 4, 4, generator=torch.Generator().manual_seed(seed)) * scale
    excluded = torch.tensor(
        [
            draw(st.lists(st.booleans(), min_size=classes, max_size=classes).filter(lambda s: not all(s)))
            for _ in range(3)
        ]
    )
    return logits, excluded, draw(st.sampled_from([0.0, 1.0, 2.0]))


@examples(60)
@given(situations())
def test_set_wise_is_finite_not_negative_and_its_gradient_is_a_transfer_of_mass(situation):
    logits, excluded, gamma = situation
    logits.requires_grad_()
    loss = set_wise(logits, excluded, gamma)
    assert torch.isfinite(loss).all()
    assert (loss >= 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert gradient.sum(dim=1).abs().max() < 1e-4
    mask = excluded[:, :, None, None].expand_as(gradient)
    assert (gradient[mask] >= 0).all()
    assert (gradient[~mask] <= 0).all()
    assert gradient.abs().max() <= 1.24
    empty = ~excluded.any(1)
    assert (loss[empty] == 0).all()
    assert (gradient[empty] == 0).all()


@examples(40)
@given(situations(), st.floats(-50, 50))
def test_set_wise_ignores_constants_and_the_order_inside_a_set(situation, constant):
    logits, excluded, gamma = situation
    logits = logits.clamp(-80, 80)
    loss = set_wise(logits, excluded, gamma)
    torch.testing.assert_close(set_wise(logits + constant, excluded, gamma), loss, rtol=1e-3, atol=1e-4)
    for sample in range(3):
        order = torch.arange(5)
        for members in (torch.nonzero(excluded[sample]).flatten(), torch.nonzero(~excluded[sample]).flatten()):
            order[members] = members.flip(0)
        permuted = set_wise(logits[sample : sample + 1, order], excluded[sample : sample + 1], gamma)
        torch.testing.assert_close(permuted, loss[sample : sample + 1], rtol=1e-3, atol=1e-4)


@examples(40)
@given(situations(), st.integers(0, 4))
def test_set_wise_grows_with_excluded_logits_and_with_the_set(situation, index):
    logits, excluded, gamma = situation
    logits = logits.clamp(-80, 80)
    loss = set_wise(logits, excluded, gamma)
    raised = logits.clone()
    raised[:, index] += 1.0
    is_out = excluded[:, index]
    assert (set_wise(raised, excluded, gamma)[is_out] >= loss[is_out] - 1e-5).all()
    larger = excluded.clone()
    larger[:, index] = True
    proper = ~larger.all(1)
    if proper.any():
        assert (set_wise(logits[proper], larger[proper], gamma) >= loss[proper] - 1e-5).all()


def test_everything_excluded_is_an_error():
    with pytest.raises(ValueError, match="all classes of a sample"):
        set_wise(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, dtype=torch.bool), 0)


def test_uniform_transition_without_focus_is_set_wise_plus_a_constant():
    logits = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    excluded = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 4]), 5).bool()
    uniform = (~excluded).float() / 4
    close(forward_corrected(logits, uniform, 0), set_wise(logits, excluded, 0) + np.log(4))


@pytest.mark.parametrize("gamma", [0, 2])
def test_extreme_logits_stay_finite_in_every_form(gamma):
    values = torch.tensor([-1e4, -80.0, 0.0, 79.9, 80.0, 1e4])
    logits = torch.cartesian_prod(values, values, values, values).view(-1, 4, 1, 1).requires_grad_()
    n = len(logits)
    excluded = torch.tensor([False, True, False, False]).expand(n, 4)
    dependent = torch.tensor([True, True, False, False])
    observation = torch.tensor([1.0, 0.0, 0.5, 0.5]).expand(n, 4)
    exact = logits.detach().double()[:, :, 0, 0]
    d = exact[:, 1] - torch.logsumexp(exact[:, [0, 2, 3]], 1)
    expected = torch.sigmoid(d) ** gamma * torch.nn.functional.softplus(d)
    for loss in (
        set_wise(logits, excluded, gamma),
        conditional_set_wise(logits, excluded, dependent, gamma),
        forward_corrected(logits, observation, gamma),
    ):
        assert torch.isfinite(loss).all()
        (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        assert torch.isfinite(gradient).all()
    close(set_wise(logits, excluded, gamma).flatten(), expected, rtol=1e-4, atol=1e-3)


class TestConditional:
    dependent = torch.tensor([False, False, True, True, True])
    excluded = torch.tensor([[False, False, True, False, False], [False, False, True, True, False]])

    def logits(self):
        return torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()

    @pytest.mark.parametrize("gamma", [0.0, 2.0])
    def test_formula(self, gamma):
        logits = self.logits()
        p = logits.softmax(1)
        weight = p[:, 2:].sum(1).detach()
        for sample, (out, left) in enumerate((([2], [3, 4]), ([2, 3], [4]))):
            q = p[sample, left].sum(0) / p[sample, 2:].sum(0)
            expected = weight[sample] * -((1 - q) ** gamma) * q.log()
            close(conditional_set_wise(logits, self.excluded, self.dependent, gamma)[sample], expected)
            assert out  # the set that the formula leaves out

    @pytest.mark.parametrize("gamma", [0.0, 2.0])
    def test_shared_classes_get_exactly_no_gradient(self, gamma):
        logits = self.logits()
        loss = conditional_set_wise(logits, self.excluded, self.dependent, gamma)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert (gradient[:, :2] == 0).all()
        assert (gradient[:, 2] > 0).all()

    def test_constant_on_dependent_logits_moves_only_the_weight(self):
        logits = self.logits().detach()
        shifted = logits + 2.5 * self.dependent.view(1, -1, 1, 1)

        def unweighted(z):
            weight = (z.softmax(1) * self.dependent.view(1, -1, 1, 1)).sum(1)
            return conditional_set_wise(z, self.excluded, self.dependent, 2.0) / weight

        torch.testing.assert_close(unweighted(shifted), unweighted(logits), rtol=1e-4, atol=1e-6)

    def test_is_set_wise_when_every_class_depends(self):
        logits, everything = self.logits(), torch.ones(5, dtype=torch.bool)
        close(conditional_set_wise(logits, self.excluded, everything, 2.0), set_wise(logits, self.excluded, 2.0))

    def test_no_information_no_loss(self):
        logits = self.logits()
        for excluded in (torch.zeros(2, 5, dtype=torch.bool), self.dependent.expand(2, 5)):
            loss = conditional_set_wise(logits, excluded, self.dependent, 2.0)
            assert (loss == 0).all()
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            assert (gradient == 0).all()


def test_bf16_logits_are_evaluated_in_float32():
    logits = torch.full((1, 3, 1, 1), 60.0, dtype=torch.bfloat16)
    excluded = torch.tensor([[True, False, False]])
    assert set_wise(logits, excluded, 2.0).dtype == torch.float32


def test_pooled_mean_without_valid_pixels_is_a_connected_zero():
    loss = torch.ones(2, 3, 3, requires_grad=True)
    total = pooled_mean(loss * 2, torch.zeros(2, 3, 3, dtype=torch.bool))
    total.backward()
    assert total == 0
    assert (loss.grad == 0).all()


def test_pixels_left_out_get_exactly_no_gradient():
    logits = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    excluded = torch.tensor([[True, False, False, False], [False, True, True, False]])
    valid = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(2)) < 0.5
    pooled_mean(set_wise(logits, excluded, 2.0), valid).backward()
    outside = ~valid[:, None].expand_as(logits)
    assert (logits.grad[outside] == 0).all()
    assert (logits.grad[~outside] != 0).any()


def test_a_shared_class_pays_under_forward_correction_and_the_diagnosed_one_does_not():
    of_diagnoses = torch.tensor([[False, False, True], [False, True, False]])
    observation = observation_probabilities(torch.tensor([[False, False, True]]), of_diagnoses)
    torch.testing.assert_close(observation, torch.tensor([[0.5, 1.0, 0.0]]))
    sure_of_stroma, sure_of_the_kind = (torch.tensor(z).view(1, 3, 1, 1) for z in ([60.0, 0, 0], [0, 60.0, 0]))
    close(forward_corrected(sure_of_stroma, observation, 2.0).flatten(), torch.tensor([0.25 * np.log(2)]))
    close(forward_corrected(sure_of_the_kind, observation, 2.0).flatten(), torch.zeros(1))


@pytest.mark.parametrize("form", list(Form))
def test_every_form_moves_the_excluded_kind_down(form):
    method_class = find_method("complementary")
    method = method_class(make_task(), method_class.Config(form=form, ramp=0))
    logits = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(5)).requires_grad_()
    excluded = torch.tensor([[False, False, False, True], [False, False, True, False]])
    method.complementary_loss(logits, excluded).backward()
    assert (logits.grad[0, 3] > 0).all()
    assert (logits.grad[0, 2] < 0).all()
    assert (logits.grad[1, 2] > 0).all()
    shared = logits.grad[:, :2]
    assert (shared == 0).all() if form is Form.CONDITIONAL else (shared != 0).any()


def test_samples_that_exclude_nothing_or_everything_do_not_count():
    method_class = find_method("complementary")
    method = method_class(make_task(), method_class.Config())
    logits = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(5))
    excluded = torch.tensor([[False, False, False, True], [False] * 4, [True] * 4])
    close(method.complementary_loss(logits, excluded), method.complementary_loss(logits[:1], excluded[:1]))
