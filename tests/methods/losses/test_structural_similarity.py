"""Structural-similarity loss: golden values of both forms, a second implementation, properties."""

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
from tissuebench.methods.losses.structural_similarity import (
    SimilarityForm,
    structural_errors,
    structural_similarity_loss,
)

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = ["c4", "c4absent", "c2", "c4f64"]
NAMES = {SimilarityForm.SCALAR: "ss", SimilarityForm.PER_PIXEL: "ss_perpixel_variant_not_in_reference"}
FORMS = pytest.mark.parametrize("form", list(SimilarityForm))


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "diffusion_finetune_losses.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def close(actual, expected, rtol=1e-9, atol=1e-13):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def near(case, actual, expected):
    if case == "c4f64":
        close(actual, expected, rtol=1e-11, atol=1e-13)
    else:
        close(actual, expected, rtol=1e-6, atol=1e-6)


@FORMS
@pytest.mark.parametrize("case", CASES)
def test_golden(arrays, case, form):
    loss = structural_similarity_loss(arrays[f"{case}_logits"], arrays[f"{case}_target"], form=form)
    near(case, loss, arrays[f"{case}_{NAMES[form]}"])


@pytest.mark.parametrize("case", CASES)
def test_golden_errors_and_selection(arrays, case):
    errors, selected = structural_errors(arrays[f"{case}_probs"], arrays[f"{case}_target"], 0.1, 0.01)
    near(case, errors, arrays[f"{case}_ss_e"])
    assert torch.equal(selected, arrays[f"{case}_ss_mask"] > 0)
    assert selected.sum() == arrays[f"{case}_ss_M"]


@pytest.mark.parametrize("case", CASES)
def test_golden_of_the_whole_loss_and_its_gradient(arrays, case):
    logits, masks = arrays[f"{case}_logits"].clone().requires_grad_(), arrays[f"{case}_target"]
    total = structural_similarity_loss(logits, masks) + focal_loss(logits, masks)
    near(case, total, arrays[f"{case}_total_ss_plus_focal"])
    near(case, torch.autograd.grad(total, logits)[0], arrays[f"{case}_grad_logits_total"])


def pixel_by_pixel(logits, masks, beta, stabiliser):
    """Both forms, tile by tile and class by class on nothing but the labelled pixels, cut out."""
    weighted, errors, count, entropies = [], [], 0, []
    for tile, mask in zip(logits, masks, strict=True):
        labelled = mask != IGNORE_LABEL
        z, labels = tile[:, labelled], mask[labelled]
        p, y = z.softmax(dim=0), functional.one_hot(labels, len(z)).T.to(z.dtype)
        entropy = -(y * p.log()).sum(dim=0)
        entropies.append(entropy)
        if len(labels) < 2:
            continue
        for one_p, one_y in zip(p, y, strict=True):
            a = (one_y - one_y.mean() + stabiliser) / (one_y.std() + stabiliser)
            b = (one_p - one_p.mean() + stabiliser) / (one_p.std() + stabiliser)
            e = (a - b).abs()
            chosen = e > beta * e.max()
            errors.append(e[chosen])
            weighted.append((e * entropy)[chosen])
            count += int(chosen.sum())
    entropies = torch.cat(entropies)
    if not count:
        return dict.fromkeys(SimilarityForm, logits.new_zeros(()))
    return {
        SimilarityForm.SCALAR: torch.cat(errors).sum() / count * entropies.mean(),
        SimilarityForm.PER_PIXEL: torch.cat(weighted).sum() / count,
    }


@examples(40)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.3, 0.9, 0.97, 1.0]),
    st.sampled_from([0.0, 0.1, 0.6]),
    st.sampled_from([0.01, 0.2]),
)
def test_ignored_pixels_are_as_cut_out(seed, ignored, beta, stabiliser):
    logits, masks = labelled_logits(seed, ignored)
    logits.requires_grad_()
    expected = pixel_by_pixel(logits, masks, beta, stabiliser)
    for form in SimilarityForm:
        loss = structural_similarity_loss(logits, masks, beta, stabiliser, form)
        close(loss, expected[form])
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient[(masks == IGNORE_LABEL)[:, None].expand_as(gradient)] == 0).all()
        if expected[form].requires_grad:
            (wanted,) = torch.autograd.grad(expected[form], logits, retain_graph=True)
            close(gradient, wanted, rtol=1e-7, atol=1e-11)
        else:
            assert (gradient == 0).all()


@FORMS
def test_ignoring_rows_is_the_smaller_tile(form):
    logits, masks = labelled_logits(1, 0.0)
    logits.requires_grad_()
    ignored, keep = masks.clone(), [0, 1, 4, 5]
    ignored[:, 2:4] = IGNORE_LABEL
    loss = structural_similarity_loss(logits, ignored, form=form)
    smaller = structural_similarity_loss(logits[:, :, keep], masks[:, keep], form=form)
    close(loss, smaller)
    close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(smaller, logits)[0])


@FORMS
def test_a_tile_without_labels_contributes_nothing(form):
    logits, masks = labelled_logits(2, 0.1)
    logits.requires_grad_()
    masks[1] = IGNORE_LABEL
    others = [0, 2, 3]
    close(
        structural_similarity_loss(logits, masks, form=form),
        structural_similarity_loss(logits[others], masks[others], form=form),
    )
    masks[:] = IGNORE_LABEL
    nothing = structural_similarity_loss(logits, masks, form=form)
    assert nothing == 0
    assert (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_one_labelled_pixel_has_no_deviation_but_a_cross_entropy():
    logits, masks = labelled_logits(3, 0.0)
    masks[0].view(-1)[1:] = IGNORE_LABEL
    _, selected = structural_errors(logits.softmax(dim=1), masks, 0.1, 0.01)
    assert not selected[0].any() and selected[1:].any()
    for form in SimilarityForm:
        alone = logits[:1].clone().requires_grad_()
        loss = structural_similarity_loss(alone, masks[:1], form=form)
        assert loss == 0
        assert torch.isfinite(torch.autograd.grad(loss, alone)[0]).all()
    changed = logits.clone()
    changed[0, masks[0, 0, 0], 0, 0] -= 5
    scalar, per_pixel = (
        [structural_similarity_loss(z, masks, form=form) for z in (logits, changed)] for form in SimilarityForm
    )
    assert scalar[1] > scalar[0]
    assert per_pixel[1] == per_pixel[0]


@FORMS
@pytest.mark.parametrize("gap", [200, 1e4])
@pytest.mark.parametrize("right", [True, False])
def test_sure_of_everything_stays_finite(form, gap, right):
    classes = torch.randint(0, 4, (2, 6, 6), generator=torch.Generator().manual_seed(4))
    masks = classes if right else (classes + 1) % 4
    logits = (functional.one_hot(classes, 4).movedim(-1, 1) * gap).float().requires_grad_()
    loss = structural_similarity_loss(logits, masks, form=form)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    if right:
        assert loss == 0 and (gradient == 0).all()
    else:
        assert gap / 2 < loss < 10 * gap and (gradient != 0).any()


@FORMS
@pytest.mark.parametrize("scale", [0.0, 1e-3, 100.0, 1e4])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.95])
def test_any_logits_have_a_finite_gradient(form, scale, ignored):
    """With scale 0 all maps are constant, the one place where a standard deviation has no slope."""
    logits, masks = labelled_logits(5, ignored, torch.float32)
    logits = (logits * scale).requires_grad_()
    loss = structural_similarity_loss(logits, masks, form=form)
    assert torch.isfinite(loss) and loss >= 0
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


@FORMS
def test_classes_that_are_absent_or_everywhere_are_finite(form):
    logits, masks = labelled_logits(6, 0.0, torch.float32)
    logits.requires_grad_()
    for label in (0, 4):
        masks[:2] = label
        loss = structural_similarity_loss(logits, masks, form=form)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all() and (gradient != 0).any()
        close(loss, pixel_by_pixel(logits, masks, 0.1, 0.01)[form], rtol=1e-5)


@FORMS
@examples(20)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(5)))
def test_names_of_classes_do_not_matter(form, seed, order):
    logits, masks = labelled_logits(seed)
    renamed = masks.clone()
    for new, old in enumerate(order):
        renamed[masks == old] = new
    close(
        structural_similarity_loss(logits[:, order], renamed, form=form),
        structural_similarity_loss(logits, masks, form=form),
    )


@FORMS
def test_tiles_are_standardised_one_by_one(form):
    """A batch twice over has the same loss, and the errors of a tile do not depend on its neighbours."""
    logits, masks = labelled_logits(7)
    twice = structural_similarity_loss(torch.cat([logits] * 2), torch.cat([masks] * 2), form=form)
    close(twice, structural_similarity_loss(logits, masks, form=form))
    p = logits.softmax(dim=1)
    close(structural_errors(p, masks, 0.1, 0.01)[0][2:3], structural_errors(p[2:3], masks[2:3], 0.1, 0.01)[0])


def test_only_one_form_knows_which_pixel_is_wrong():
    """``scalar`` is the product of two means, ``per_pixel`` the mean of a product."""
    logits, masks = labelled_logits(8, 0.0)
    errors, selected = structural_errors(logits.softmax(dim=1), masks, 0.1, 0.01)
    entropy = functional.cross_entropy(logits, masks, reduction="none")
    mean = (errors * selected).sum() / selected.sum()
    close(structural_similarity_loss(logits, masks), mean * entropy.mean())
    weighted = (errors * selected * entropy[:, None]).sum() / selected.sum()
    close(structural_similarity_loss(logits, masks, form=SimilarityForm.PER_PIXEL), weighted)
    assert (weighted - mean * entropy.mean()).abs() > 0.1


@FORMS
def test_evaluated_in_float32_at_least(form):
    logits, masks = labelled_logits(9)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = logits.to(dtype)
        loss = structural_similarity_loss(narrow, masks, form=form)
        assert loss.dtype == torch.float32 and loss.shape == ()
        assert torch.equal(loss, structural_similarity_loss(narrow.float(), masks, form=form))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(structural_similarity_loss(narrow.float(), masks, form=form), loss)
    assert structural_similarity_loss(logits, masks, form=form).dtype == torch.float64


def test_what_does_not_fit_is_refused():
    logits, masks = labelled_logits(10)
    for wrong in (masks[0], masks[:3], masks[..., :6], masks[:, None]):
        with pytest.raises(ValueError, match="masks"):
            structural_similarity_loss(logits, wrong)
    with pytest.raises(ValueError, match="logits"):
        structural_similarity_loss(logits[:, :, 0], masks)
    for beta, stabiliser in ((-0.1, 0.01), (1.5, 0.01), (0.1, 0.0)):
        with pytest.raises(ValueError, match="stabiliser"):
            structural_similarity_loss(logits, masks, beta, stabiliser)
