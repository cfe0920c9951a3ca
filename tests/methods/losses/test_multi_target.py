"""Cross-entropy to several masks: golden values of both forms, their properties."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.losses.multi_target import MultiTarget, multi_target_cross_entropy

GOLDEN = Path(__file__).parents[2] / "golden"
LAYERS = ("b4_5", "b5_2", "bn7")
NAMES = {MultiTarget.OFFICIAL: "code", MultiTarget.VALID: "ignore"}
WEIGHTS = (0.2, 0.2, 0.6)


def golden(name):
    with np.load(GOLDEN / f"mlps_{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="module")
def arrays():
    return golden("loss")


def targets_of(arrays):
    targets = torch.stack([arrays[f"target_{layer}"] for layer in LAYERS], dim=1)
    return targets.masked_fill(targets == 4, IGNORE_LABEL)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("form", list(MultiTarget))
def test_golden(arrays, form):
    logits, targets = arrays["logits"].clone().requires_grad_(), targets_of(arrays)
    weights = arrays["weights"].flip(0).tolist()
    loss = multi_target_cross_entropy(logits, targets, weights, form)
    close(loss, arrays[f"{NAMES[form]}_total"])
    close(torch.autograd.grad(loss, logits)[0], arrays[f"{NAMES[form]}_grad"])


@pytest.mark.parametrize("form", list(MultiTarget))
@pytest.mark.parametrize("index", range(3))
def test_golden_of_each_layer(arrays, form, index):
    weights = [float(number == index) for number in range(3)]
    loss = multi_target_cross_entropy(arrays["logits"], targets_of(arrays), weights, form)
    close(loss, arrays[f"{NAMES[form]}_loss_{LAYERS[index]}"])


def test_golden_of_the_classifiers_loss():
    """torch's own is that of the official first stage."""
    arrays = golden("clsloss")
    close(functional.multilabel_soft_margin_loss(arrays["logits"], arrays["labels"]), arrays["loss"])


def random(seed, layers=3, ignored=0.3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, 6, 7, generator=generator, dtype=dtype) * 3
    targets = torch.randint(0, 5, (4, layers, 6, 7), generator=generator)
    return logits, targets.masked_fill(torch.rand(targets.shape, generator=generator) < ignored, IGNORE_LABEL)


@examples(30)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.9]))
def test_is_the_weighted_sum_of_single_cross_entropies(seed, layers, ignored):
    logits, targets = random(seed, layers, ignored)
    weights = torch.rand(layers, generator=torch.Generator().manual_seed(seed)).double().tolist()
    extra = 100.0 * (targets[:, -1:] == IGNORE_LABEL)
    five = torch.cat([logits, extra], dim=1)
    white = targets.masked_fill(targets == IGNORE_LABEL, 5)
    expected = dict.fromkeys(MultiTarget, torch.zeros((), dtype=torch.float64))
    for number, weight in enumerate(weights):
        if (targets[:, number] != IGNORE_LABEL).any():
            one = functional.cross_entropy(logits, targets[:, number], ignore_index=IGNORE_LABEL)
            expected[MultiTarget.VALID] = expected[MultiTarget.VALID] + weight * one
        one = functional.cross_entropy(five, white[:, number]) / 4
        expected[MultiTarget.OFFICIAL] = expected[MultiTarget.OFFICIAL] + weight * one
    for form in MultiTarget:
        close(multi_target_cross_entropy(logits, targets, weights, form), expected[form])


def test_identical_masks_are_one_plain_cross_entropy():
    from tissuebench.methods.api.method import (
        masked_cross_entropy,  # slow to import, which the two processes need not do
    )

    logits, targets = random(1, 1)
    loss = multi_target_cross_entropy(logits.float(), targets.expand(-1, 3, -1, -1), WEIGHTS)
    torch.testing.assert_close(loss, masked_cross_entropy(logits.float(), targets[:, 0]))


def test_ignored_pixels_have_exactly_no_gradient():
    logits, targets = random(2)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(multi_target_cross_entropy(logits, targets, WEIGHTS), logits)
    nowhere = (targets == IGNORE_LABEL).all(dim=1)[:, None].expand_as(gradient)
    assert nowhere.any()
    assert (gradient[nowhere] == 0).all()
    assert (gradient[~nowhere] != 0).all()


@pytest.mark.parametrize("form", list(MultiTarget))
def test_a_layer_that_says_nothing_changes_the_rest_in_no_way(form):
    logits, targets = random(3, ignored=0.0)
    logits.requires_grad_()
    targets[:, 0] = IGNORE_LABEL
    loss = multi_target_cross_entropy(logits, targets, (0.5, 0.2, 0.3), form)
    assert torch.isfinite(loss)
    if form is MultiTarget.VALID:
        close(loss, multi_target_cross_entropy(logits, targets[:, 1:], (0.2, 0.3), form))
        targets[:] = IGNORE_LABEL
        nothing = multi_target_cross_entropy(logits, targets, WEIGHTS, form)
        assert nothing == 0
        assert (torch.autograd.grad(nothing, logits)[0] == 0).all()
    else:  # it asks for the extra class, whose logit is 0 where the last layer has a label
        five = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
        white = functional.cross_entropy(five, torch.full_like(targets[:, 0], 5)) / 4
        rest = multi_target_cross_entropy(logits, targets[:, 1:], (0.2, 0.3), form)
        close(loss, rest + 0.5 * white)


def test_official_white_pixels_count_in_the_mean_but_have_no_gradient_to_speak_of():
    logits, targets = random(4, 1, 0.0)
    logits.requires_grad_()
    full = multi_target_cross_entropy(logits[:2], targets[:2], [1.0], MultiTarget.OFFICIAL)
    targets[2:] = IGNORE_LABEL
    diluted = multi_target_cross_entropy(logits, targets, [1.0], MultiTarget.OFFICIAL)
    close(diluted, full / 4)  # twice the pixels, twice the batch
    (gradient,) = torch.autograd.grad(diluted, logits)
    assert gradient[2:].abs().max() < 1e-30 < gradient[:2].abs().max()


@pytest.mark.parametrize("form", list(MultiTarget))
def test_evaluated_in_float32_at_least(form):
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float16, torch.float32)):
        logits, targets = random(5)
        narrow = logits.to(dtype)
        loss = multi_target_cross_entropy(narrow, targets, WEIGHTS, form)
        assert loss.dtype == expected and loss.shape == ()
        assert torch.equal(loss, multi_target_cross_entropy(narrow.float(), targets, WEIGHTS, form))
    assert multi_target_cross_entropy(*random(5), WEIGHTS, form).dtype == torch.float64


@pytest.mark.parametrize("form", list(MultiTarget))
def test_extreme_logits_stay_finite(form):
    logits, targets = random(6, dtype=torch.float32)
    logits = (logits * 1e4).requires_grad_()
    loss = multi_target_cross_entropy(logits, targets, WEIGHTS, form)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_shapes_that_do_not_fit_are_refused():
    logits, targets = random(7)
    for wrong in (targets[:, 0], targets[:3], targets[..., :6]):
        with pytest.raises(ValueError, match="targets"):
            multi_target_cross_entropy(logits, wrong, WEIGHTS)
    with pytest.raises(ValueError, match="logits"):
        multi_target_cross_entropy(logits[:, :, 0], targets, WEIGHTS)
    with pytest.raises(ValueError, match="2 weights for 3 layers"):
        multi_target_cross_entropy(logits, targets, WEIGHTS[:2])
