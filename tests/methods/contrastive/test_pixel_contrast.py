"""The loss of pixel contrast: golden values, a second implementation, gradients, precision and empty cases."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.methods.contrastive.pixels import close, drawn, random, seeded
from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.contrastive import pixel_contrast
from tissuebench.methods.contrastive.pixel_contrast import (
    Sampled,
    candidates,
    pixel_contrast_loss,
    pixel_rows,
    prototypes,
    relation,
    sample,
)

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "action_reco.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def of_golden(arrays):
    """The published code's random case, its own indices turned into numbers of pixels."""
    labels = arrays["rand_label"].masked_fill(arrays["rand_mask"][:, 0] == 0, IGNORE_LABEL)
    found = candidates(labels, arrays["rand_prob"], 0.97)
    present = arrays["rand_present_classes"]
    assert torch.equal(found.present.nonzero().flatten(), present)
    hard = found.hard.split(found.hard_counts.tolist())
    valid = found.valid.split(found.valid_counts.tolist())
    queries, negatives = [], []
    for i, c in enumerate(present.tolist()):
        queries.append(hard[c][arrays["rand_hard_idx"][i]])
        others = torch.cat([valid[v] for v in [*present[i + 1 :].tolist(), *present[:i].tolist()]])
        negatives.append(others[arrays["rand_neg_index"][i]])
    return labels, found, Sampled(present, torch.stack(queries), torch.stack(negatives), len(present))


def test_golden_loss_and_gradient(arrays):
    labels, _, sampled = of_golden(arrays)
    maps = arrays["rand_rep"].clone().requires_grad_()
    rows = pixel_rows(maps)
    means = prototypes(rows, labels, 4)
    loss = pixel_contrast_loss(rows[sampled.queries], means, rows, sampled, 0.5)  # rows as keys: no gradient even so
    close(loss, arrays["rand_loss"], rtol=1e-6)
    assert loss.item() == pytest.approx(1.984955, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, maps)
    close(gradient, arrays["rand_grad_rep"], rtol=1e-5, atol=1e-8)
    assert (gradient != 0).any()


def test_golden_relation(arrays):
    labels, found, sampled = of_golden(arrays)
    pairs = relation(prototypes(pixel_rows(arrays["rand_rep"]), labels, 4), found.present, 0.5)
    for c, expected in enumerate(arrays["rand_neg_class_prob"]):
        close(pairs[c, [(c + 1) % 3, (c + 2) % 3]], expected, rtol=1e-5)
    assert (pairs[3] == 0).all() and (pairs[:, 3] == 0).all() and (pairs.diagonal() == 0).all()
    chosen = labels.flatten()[sampled.negatives]
    numbers = torch.arange(3)[:, None, None]
    # The published code draws how many negatives are of which class, and puts those of one class side by side.
    assert torch.equal((chosen - numbers) % 3 - 1, arrays["rand_samp_class"].sort(dim=2).values)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case, n_queries, n_negatives, value", [("det2", 6, 9, 1.618192), ("det3", 6, 7, 0.666468)])
def test_golden_cases_that_do_not_depend_on_the_sample(arrays, case, n_queries, n_negatives, value, seed):
    maps, labels = arrays[f"{case}_rep"], arrays[f"{case}_label"]
    unsure = torch.full((1, int(labels.max()) + 1, *labels.shape[1:]), 0.3)
    loss, _, _ = drawn(maps, labels, unsure, n_queries, n_negatives, seed)
    close(loss, arrays[f"{case}_loss"], rtol=1e-6)
    close(loss, arrays[f"{case}_closed_form"], rtol=1e-6)
    assert loss.item() == pytest.approx(value, abs=1e-6)


def test_golden_a_class_that_is_easy_is_still_counted(arrays):
    maps, labels, probabilities = arrays["det3_rep"], arrays["det3_label"], arrays["det3_easy0_prob"]
    loss, sampled, _ = drawn(maps, labels, probabilities, 6, 7)
    close(loss, arrays["det3_easy0_loss"], rtol=1e-6)
    assert sampled.classes.tolist() == [1, 2] and sampled.n_present == 3
    assert loss.item() == pytest.approx(2 / 3 * 0.666468, abs=1e-6)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (0, 2, 1)])
def test_names_of_classes_do_not_matter(arrays, order):
    maps, labels, probabilities = arrays["det3_rep"], arrays["det3_label"], arrays["det3_easy0_prob"]
    named = torch.tensor(order)[labels]
    renamed = torch.empty_like(probabilities)
    renamed[:, list(order)] = probabilities
    close(drawn(maps, named, renamed, 6, 7)[0], arrays["det3_easy0_loss"], rtol=1e-6)


def query_by_query(maps, means, sampled, temperature):
    """The loss with every pair's own cosine; the keys are constant."""
    rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    losses = []
    for i, c in enumerate(sampled.classes.tolist()):
        for q, negatives in zip(sampled.queries[i].tolist(), sampled.negatives[i].tolist(), strict=True):
            keys = torch.stack([means[c], *(rows[n].detach() for n in negatives)])
            logits = functional.cosine_similarity(rows[q][None], keys) / temperature
            losses.append(functional.cross_entropy(logits[None], torch.tensor([0])) / len(sampled.queries[i]))
    return torch.stack(losses).sum() / sampled.n_present


@examples(25)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.1, 0.5]), st.booleans())
def test_is_what_the_formula_says(seed, ignored, temperature, small_chunks):
    maps, labels, probabilities = random(seed, ignored)
    maps.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        if small_chunks:
            patch.setattr(pixel_contrast, "_CPU_CHUNK", 3 * 9 * 6)
            patch.setattr(pixel_contrast, "_SUMMED_ROWS", 16)
        loss, sampled, means = drawn(maps, labels, probabilities, seed=seed, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, maps)
    if not len(sampled.classes):
        assert loss == 0 and (gradient == 0).all()
        return
    expected = query_by_query(maps, means, sampled, temperature)
    close(loss, expected)
    close(gradient, torch.autograd.grad(expected, maps)[0], rtol=1e-8, atol=1e-11)


def test_the_gradient_is_the_derivative():
    maps, labels, probabilities = random()
    _, sampled, means = drawn(maps, labels, probabilities)
    keys = pixel_rows(maps)
    queries = keys[sampled.queries].requires_grad_()
    assert torch.autograd.gradcheck(lambda q: pixel_contrast_loss(q, means, keys, sampled), queries)


def test_gradient_only_at_the_sampled_queries():
    maps, labels, probabilities = random(1)
    maps.requires_grad_()
    loss, sampled, _ = drawn(maps, labels, probabilities, n_queries=2)
    rows = pixel_rows(torch.autograd.grad(loss, maps)[0])
    reached = torch.zeros(len(rows), dtype=torch.bool)
    reached[sampled.queries.flatten()] = True
    assert (rows[~reached] == 0).all() and (rows[reached] != 0).any(dim=1).all() and not reached.all()


def test_keys_and_prototypes_carry_no_gradient():
    maps, labels, probabilities = random()
    _, sampled, means = drawn(maps, labels, probabilities)
    rows = pixel_rows(maps)
    queries, keys = rows[sampled.queries].requires_grad_(), rows.clone().requires_grad_()
    means.requires_grad_()
    assert not prototypes(keys, labels, 4).requires_grad
    pixel_contrast_loss(queries, means, keys, sampled).backward()
    assert queries.grad is not None and keys.grad is None and means.grad is None


def test_lengths_do_not_matter():
    maps, labels, probabilities = random()
    _, sampled, means = drawn(maps, labels, probabilities)
    rows = pixel_rows(maps)
    lengths = torch.rand(len(rows), 1, generator=seeded(), dtype=torch.float64) * 10 + 0.1
    close(
        pixel_contrast_loss((rows * lengths)[sampled.queries], means * 3, rows * lengths.flip(0), sampled),
        pixel_contrast_loss(rows[sampled.queries], means, rows, sampled),
    )


def test_vectors_without_length_are_finite():
    maps, labels, probabilities = random()
    maps[:, :, :2] = 0
    maps.requires_grad_()
    loss, _, _ = drawn(maps, labels, probabilities)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, maps)[0]).all()


def nothing(loss, maps):
    assert loss == 0 and loss.shape == () and loss.requires_grad
    (gradient,) = torch.autograd.grad(loss, maps)
    assert (gradient == 0).all()


@pytest.mark.parametrize("label", [0, 2, IGNORE_LABEL])
def test_one_class_or_none_is_nothing(arrays, label):
    maps, labels, probabilities = random()
    labels[:] = label
    maps.requires_grad_()
    loss, sampled, _ = drawn(maps, labels, probabilities)
    assert loss == arrays["single_class_loss"]
    assert sampled.n_present == (label != IGNORE_LABEL) and sampled.queries.shape == (0, 7)
    nothing(loss, maps)


def test_no_hard_pixel_is_nothing():
    maps, labels, _ = random()
    maps.requires_grad_()
    loss, sampled, _ = drawn(maps, labels, torch.ones(2, 4, 5, 7))
    assert sampled.n_present == 4 and sampled.negatives.shape == (0, 7, 9)
    nothing(loss, maps)


def test_fewer_pixels_than_queries():
    maps, labels, _ = random()
    labels[:] = IGNORE_LABEL
    labels[0, 0, 0], labels[1, 4, 6] = 1, 3
    maps.requires_grad_()
    loss, sampled, means = drawn(maps, labels, torch.full((2, 4, 5, 7), 0.2), 50, 60)
    assert sampled.classes.tolist() == [1, 3]
    assert (sampled.queries == torch.tensor([[0], [69]])).all()
    assert (sampled.negatives == torch.tensor([[[69]], [[0]]])).all()
    rows = pixel_rows(maps)
    cosine = functional.cosine_similarity(rows[0], rows[69], dim=0).item()
    assert loss.item() == pytest.approx(math.log1p(60 * math.exp(2 * (cosine - 1))))
    assert torch.equal(means[1], rows[0]) and torch.equal(means[3], rows[69])


def test_evaluated_in_float32_at_least():
    maps, labels, probabilities = random(dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = maps.to(dtype)
        loss, sampled, means = drawn(narrow, labels, probabilities)
        wide = narrow.float()
        assert loss.dtype == means.dtype == torch.float32
        expected, same, wide_means = drawn(wide, labels, probabilities)
        assert torch.equal(sampled.negatives, same.negatives) and torch.equal(means, wide_means)
        if dtype is torch.float16:
            assert torch.equal(loss, expected)
        else:  # multiplied, and rounded to eight bits
            torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(drawn(wide, labels, probabilities)[0], expected)


def test_multiplied_is_gathered_but_for_rounding():
    """Value and gradient, with keys drawn several times, in several chunks."""
    maps, labels, probabilities = random(dtype=torch.float32)
    keys = pixel_rows(maps).bfloat16()
    found = candidates(labels, probabilities)
    means = prototypes(keys, labels, probabilities.shape[1])
    sampled = sample(found, relation(means, found.present), torch.Generator().manual_seed(0), 40, 200)

    def value_and_gradient(keys):
        queries = pixel_rows(maps)[sampled.queries].clone().requires_grad_()
        loss = pixel_contrast_loss(queries, means, keys, sampled)
        loss.backward()
        return loss.detach(), queries.grad

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_contrast, "_DENSE_CHUNK", 7 * len(keys))
        multiplied = value_and_gradient(keys)
    gathered = value_and_gradient(keys.float())
    assert not torch.equal(multiplied[0], gathered[0])
    torch.testing.assert_close(multiplied[0], gathered[0], rtol=2e-3, atol=0)
    torch.testing.assert_close(multiplied[1], gathered[1], rtol=0.05, atol=0.01 * float(gathered[1].abs().max()))


def test_layout_does_not_matter():
    maps, labels, probabilities = random()
    last = [value.contiguous(memory_format=torch.channels_last) for value in (maps, probabilities)]
    assert torch.equal(drawn(last[0], labels, last[1])[0], drawn(maps, labels, probabilities)[0])


def test_what_does_not_fit_is_refused():
    maps, labels, probabilities = random()
    for wrong in (labels[0], labels[:1], labels[:, None]):
        with pytest.raises(ValueError, match="labels"):
            candidates(wrong, probabilities)
    _, sampled, means = drawn(maps, labels, probabilities)
    rows = pixel_rows(maps)
    for queries in (rows[sampled.queries][:, :5], rows[sampled.queries][..., :3]):
        with pytest.raises(ValueError, match="queries"):
            pixel_contrast_loss(queries, means, rows, sampled)
    with pytest.raises(ValueError, match="queries"):
        pixel_contrast_loss(rows[sampled.queries], means, rows, replace(sampled, queries=sampled.queries[:1]))
