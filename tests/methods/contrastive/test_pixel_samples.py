"""Sampling for pixel contrast: candidates, prototypes, the relation of classes, queries and negatives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.methods.contrastive.pixels import close, drawn, random, seeded
from tests.properties import examples
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.contrastive import pixel_contrast
from tissuebench.methods.contrastive.pixel_contrast import candidates, pixel_rows, prototypes, relation, sample


@examples(30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 0.97, 1.0]), st.integers(2, 6))
def test_candidates_pixel_by_pixel(seed, ignored, classes):
    _, labels, probabilities = random(seed, ignored, classes)
    found = candidates(labels, probabilities, 0.9)
    valid, hard = found.valid.split(found.valid_counts.tolist()), found.hard.split(found.hard_counts.tolist())
    assert len(valid) == len(hard) == classes
    for c in range(classes):
        own = labels.flatten() == c
        assert torch.equal(valid[c], own.nonzero().flatten())
        unsure = own & (probabilities[:, c].flatten() < 0.9)
        assert torch.equal(hard[c], unsure.nonzero().flatten())
        assert found.present[c] == own.any()


def test_confidence_at_the_threshold_is_not_hard():
    labels = torch.tensor([[[0, 0, 1, 1]]])
    sure = torch.tensor([0.97, 0.9699, 0.5, 1.0]).view(1, 1, 1, 4).repeat(1, 2, 1, 1)
    assert candidates(labels, sure, 0.97).hard.tolist() == [1, 2]


@examples(20)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 0.97]), st.sampled_from([16, 2**16]))
def test_prototypes_are_means(seed, ignored, rows_at_once):
    maps, labels, _ = random(seed, ignored)
    rows = pixel_rows(maps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_contrast, "_SUMMED_ROWS", rows_at_once)
        means = prototypes(rows, labels, 5)
    for c in range(5):
        own = rows[labels.flatten() == c]
        close(means[c], own.mean(dim=0) if len(own) else torch.zeros(6, dtype=torch.float64))
    assert torch.equal(prototypes(rows, labels, 5), prototypes(rows, labels.flatten(), 5))


def test_rows_are_pixels_in_raster_order():
    maps, _, _ = random()
    rows = pixel_rows(maps)
    assert torch.equal(rows[1 * 35 + 3 * 7 + 2], maps[1, :, 3, 2])
    last = maps.contiguous(memory_format=torch.channels_last)
    assert pixel_rows(last).data_ptr() == last.data_ptr() and torch.equal(pixel_rows(last), rows)


@examples(30)
@given(
    st.integers(0, 2**31),
    st.lists(st.booleans(), min_size=2, max_size=6),
    st.sampled_from([0.01, 0.5, 10.0]),
)
def test_relation_is_a_distribution_over_the_others(seed, present, temperature):
    present = torch.tensor(present)
    means = torch.randn(len(present), 6, generator=seeded(seed), dtype=torch.float64)
    pairs = relation(means, present, temperature)
    assert (pairs.diagonal() == 0).all() and (pairs[:, ~present] == 0).all() and (pairs[~present] == 0).all()
    if present.sum() > 1:
        close(pairs[present].sum(dim=1), torch.ones(int(present.sum()), dtype=torch.float64))
    else:
        assert (pairs == 0).all()
    unit = functional.normalize(means, dim=1)
    for c in present.nonzero().flatten():
        others = present.clone()
        others[c] = False
        if others.any():
            close(pairs[c, others], (unit[others] @ unit[c] / temperature).softmax(dim=0))


@examples(30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 0.95]))
def test_queries_are_hard_and_negatives_of_other_classes(seed, ignored):
    maps, labels, probabilities = random(seed, ignored)
    _, sampled, _ = drawn(maps, labels, probabilities, 20, 30, seed)
    flat, own = labels.flatten(), probabilities.permute(0, 2, 3, 1).reshape(-1, 4)
    found = candidates(labels, probabilities)
    assert sampled.n_present == found.present.sum()
    if sampled.n_present > 1:
        assert torch.equal(sampled.classes, found.hard_counts.nonzero().flatten())
    else:
        assert not len(sampled.classes)
    c = sampled.classes
    assert sampled.queries.shape == (len(c), 20) and sampled.negatives.shape == (len(c), 20, 30)
    assert (flat[sampled.queries] == c[:, None]).all()
    assert (own[sampled.queries, c[:, None]] < 0.97).all()
    chosen = flat[sampled.negatives]
    assert (chosen != c[:, None, None]).all() and (chosen != IGNORE_LABEL).all()


def test_the_generator_decides():
    maps, labels, probabilities = random()
    found = candidates(labels, probabilities)
    pairs = relation(prototypes(pixel_rows(maps), labels, 4), found.present)
    first, other = sample(found, pairs, seeded(5), 20, 30), sample(found, pairs, seeded(6), 20, 30)
    torch.manual_seed(1)
    again = sample(found, pairs, seeded(5), 20, 30)
    for name in ("queries", "negatives"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_samples_follow_the_relation_and_are_uniform_in_each_class():
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 8 + [IGNORE_LABEL] * 2 + [4] * 2).view(1, 4, 5)
    probabilities = torch.full((1, 5, 4, 5), 0.1)
    probabilities[0, 0, 0, :2] = 0.99  # of class 0 three pixels are hard
    found = candidates(labels, probabilities)
    pairs = relation(torch.randn(5, 3, generator=seeded(1)), found.present, 0.5)
    sampled = sample(found, pairs, seeded(2), 600, 500)
    assert sampled.classes.tolist() == [0, 1, 2, 4] and sampled.n_present == 4
    flat = labels.flatten()
    for c, queries, negatives in zip(sampled.classes.tolist(), sampled.queries, sampled.negatives, strict=True):
        expected = torch.zeros(20, dtype=torch.float64)
        for v in range(5):
            expected[flat == v] = pairs[c, v].double() / max(int((flat == v).sum()), 1)
        n = negatives.numel()
        shares = torch.bincount(negatives.flatten(), minlength=20) / n
        deviations = (expected * (1 - expected) / n).sqrt()
        assert ((shares - expected).abs() <= 4.5 * deviations).all()
        assert (shares[expected == 0] == 0).all()
        # As far off as chance is, not less: each query has negatives of its own.
        halves = [torch.bincount(half.flatten(), minlength=20) / (n / 2) for half in negatives.split(300)]
        assert (halves[0] != halves[1]).any() and len(negatives.unique(dim=0)) == 600
        hard = found.hard.split(found.hard_counts.tolist())[c]
        assert len(hard) == {0: 3, 1: 3, 2: 8, 4: 2}[c]
        counts = torch.bincount(queries, minlength=20)[hard]
        assert counts.sum() == 600
        assert (counts / 600 - 1 / len(hard)).abs().max() < 4.5 * math.sqrt(1 / len(hard) / 600)


class _Extremes:
    """Draws nothing but the least, or the largest, number that ``torch.rand`` can."""

    def __init__(self, value):
        self.value = value

    def __call__(self, shape, generator, device, dtype):
        return torch.full(shape, self.value, dtype=dtype)


@pytest.mark.parametrize("value, end", [(0.0, 0), (1 - 2**-53, -1)])
def test_the_ends_of_the_random_numbers_stay_inside(monkeypatch, value, end):
    """With the first and the last class absent, P begins and ends with zeros."""
    labels = torch.tensor([[[1, 1, 1, 2, 2, 3, 3, 3]]])
    found = candidates(labels, torch.full((1, 5, 1, 8), 0.2))
    pairs = relation(torch.randn(5, 3, generator=seeded()), found.present, 0.5)
    monkeypatch.setattr(torch, "rand", _Extremes(value))
    sampled = sample(found, pairs, seeded(), 2, 2)
    valid = found.valid.split(found.valid_counts.tolist())
    assert (sampled.queries == torch.stack([valid[c][end] for c in (1, 2, 3)])[:, None]).all()
    others = {0: (2, 1, 1), -1: (3, 3, 2)}[end]
    assert (sampled.negatives == torch.stack([valid[v][end] for v in others])[:, None, None]).all()
