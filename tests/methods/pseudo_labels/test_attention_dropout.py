"""Progressive dropout attention: golden values of the published code, and its properties."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.methods.pseudo_labels.attention_dropout import AttentionSchedule, DropoutForm, attention_dropout

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "mlps_pda.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "index"), [("mu100", 0), ("mu90", 1), ("mu65", 2), ("mu0", 3)])
def test_golden(arrays, name, index):
    features, weights = arrays["x"].clone().requires_grad_(), arrays["W"].clone().requires_grad_()
    attended, attention = attention_dropout(features, weights, float(arrays["mus"][index]))
    close(attention, arrays[f"A_{name}"])
    close(attended, arrays[f"out_{name}"])
    gradients = torch.autograd.grad((attended * arrays["upstream"]).sum(), (features, weights))
    close(gradients[0], arrays[f"gradx_{name}"])
    close(gradients[1], arrays[f"gradW_{name}"])


def test_golden_of_three_classes_divided_by_four(arrays):
    features, weights = arrays["x"], arrays["W"][:3]
    close(attention_dropout(features, weights, 0.65, divide_by=4)[0], arrays["out_3class_code"])
    close(attention_dropout(features, weights, 0.65)[1], arrays["A_3class_true_mean"])


def test_golden_schedule_of_the_code(arrays):
    schedule = AttentionSchedule(DropoutForm.OFFICIAL)
    enabled, gamma = arrays["schedule_code_enabled"].bool().tolist(), arrays["schedule_code_gamma"].tolist()
    found = [schedule.keep(epoch) for epoch in range(30)]
    assert [keep is not None for keep in found] == enabled
    assert found[3:] == pytest.approx(gamma[3:], rel=1e-9)


def test_golden_schedule_of_the_paper(arrays):
    schedule = AttentionSchedule(DropoutForm.PAPER)
    assert [schedule.keep(epoch) for epoch in range(30)] == pytest.approx(
        arrays["schedule_paper_mu"].tolist(), rel=1e-9
    )


def test_the_paper_stops_at_the_floor_and_the_code_below_it():
    assert AttentionSchedule(DropoutForm.PAPER).keep(300) == 0.65
    assert AttentionSchedule(DropoutForm.OFFICIAL).keep(300) == pytest.approx(0.98**22)


def test_settings_of_the_schedule_are_used():
    paper = AttentionSchedule(DropoutForm.PAPER, decay=0.5, floor=0.2, start_epoch=1)
    assert [paper.keep(epoch) for epoch in range(5)] == [1, 0.5, 0.25, 0.2, 0.2]
    official = AttentionSchedule(DropoutForm.OFFICIAL, decay=0.5, floor=0.2, start_epoch=1)
    assert [official.keep(epoch) for epoch in range(6)] == [None, 0.5, 0.25, 0.125, 0.125, 0.125]


@pytest.mark.parametrize("wrong", [{"decay": 0.0}, {"decay": 1.1}, {"floor": -0.1}, {"floor": 2}, {"start_epoch": -1}])
def test_a_schedule_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="decay must be"):
        AttentionSchedule(DropoutForm.PAPER, **wrong)


def random(seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 6, 4, 5, generator=generator, dtype=torch.float64).relu()
    return features, torch.randn(classes, 6, generator=generator, dtype=torch.float64)


def plain_maps(features, weights):
    return torch.stack([(features * w[None, :, None, None]).sum(dim=1).relu() for w in weights], dim=1)


@examples(30)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_with_all_kept_it_is_the_mean_map_and_with_nothing_zero(seed, classes):
    features, weights = random(seed, classes)
    close(attention_dropout(features, weights, 1.0)[1], plain_maps(features, weights).mean(dim=1))
    attended, attention = attention_dropout(features, weights, 0.0)
    assert (attention == 0).all() and (attended == 0).all()


@examples(30)
@given(st.integers(0, 2**31), st.floats(0, 0.999))
def test_each_class_loses_its_peak_and_nothing_below_the_bound(seed, keep):
    features, weights = random(seed)
    for k, row in enumerate(weights):
        _, attention = attention_dropout(features, row[None], keep)
        plain = plain_maps(features, weights)[:, k]
        bound = keep * plain.amax(dim=(1, 2), keepdim=True)
        close(attention, torch.where(plain <= bound, plain, 0.0))
        for sample in range(len(plain)):
            if plain[sample].max() > 0:
                assert attention[sample].flatten()[plain[sample].argmax()] == 0


@examples(30)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_keeping_more_never_lowers_attention(seed, one, other):
    features, weights = random(seed)
    low, high = (attention_dropout(features, weights, keep)[1] for keep in sorted((one, other)))
    assert (high >= low).all()


def test_the_maximum_is_that_of_the_sample():
    features, weights = random(4)
    together = attention_dropout(features * torch.tensor([1.0, 100.0]).view(2, 1, 1, 1), weights, 0.8)[1]
    close(together[:1], attention_dropout(features[:1], weights, 0.8)[1])


def test_empty_features_give_zeros_and_finite_gradients():
    features, weights = torch.zeros(2, 6, 4, 5, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    attended, attention = attention_dropout(features, weights, 0.65)
    assert (attended == 0).all() and (attention == 0).all()
    gradients = torch.autograd.grad(attended.sum() + attention.sum(), (features, weights))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("keep", [-0.1, 1.1, float("nan")])
def test_keep_outside_its_range_is_refused(keep):
    with pytest.raises(ValueError, match="keep must be"):
        attention_dropout(*random(0), keep)


def test_shapes_that_do_not_fit_are_refused():
    features, weights = random(0)
    with pytest.raises(ValueError, match="head_weights"):
        attention_dropout(features, weights[:, :5], 1.0)
    with pytest.raises(ValueError, match="head_weights"):
        attention_dropout(features, weights[:, :, None, None], 1.0)
    with pytest.raises(ValueError, match="divide_by"):
        attention_dropout(features, weights, 1.0, divide_by=0)
