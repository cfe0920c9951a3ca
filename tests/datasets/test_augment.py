from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tissuebench.datasets.augment import N_ORIENTATIONS, AugmentSettings, augment, orient, orient_each

PLAIN = AugmentSettings(color=0, hue=0)
STRONG = AugmentSettings(color=0.4, hue=0.1)
seeds = st.integers(0, 2**62)


def image_batch(n=24, size=8):
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def global_state():
    return torch.get_rng_state().clone(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def test_the_eight_symmetries_of_the_square_are_distinct():
    square = torch.arange(9).reshape(3, 3)
    turned = [orient(square, orientation) for orientation in range(N_ORIENTATIONS)]
    assert len({tuple(one.ravel().tolist()) for one in turned}) == 8
    assert torch.equal(turned[0], square)
    corners = {0, 2, 6, 8}
    for one in turned:
        assert {int(one[y, x]) for y in (0, 2) for x in (0, 2)} == corners
        assert int(one[1, 1]) == 4


def test_orientations_by_hand():
    square = torch.tensor([[1, 2], [3, 4]])
    assert orient(square, 1).tolist() == [[2, 4], [1, 3]]  # a quarter turn against the clock
    assert orient(square, 4).tolist() == [[2, 1], [4, 3]]
    assert orient(square, 5).tolist() == [[4, 2], [3, 1]]  # turned, then flipped


def test_orient_each_turns_each_sample_its_own_way():
    batch = torch.arange(8 * 2 * 3 * 3).reshape(8, 2, 3, 3)
    orientations = torch.tensor([7, 0, 3, 3, 1, 6, 5, 4])
    turned = orient_each(batch, orientations)
    for sample, orientation in enumerate(orientations.tolist()):
        assert torch.equal(turned[sample], orient(batch[sample], orientation))


@given(seeds)
def test_images_and_masks_turn_together(seed):
    images = image_batch()
    masks = images[:, 0].long()  # a mask made from the image
    turned, orientations = augment(images, seed, PLAIN)
    assert (turned.dtype, orientations.dtype) == (torch.float32, torch.int64)
    assert torch.equal((turned[:, 0] * 255).round().long(), orient_each(masks, orientations))


def test_all_orientations_occur_about_equally_often():
    _, orientations = augment(torch.zeros((8000, 3, 1, 1), dtype=torch.uint8), 3, PLAIN)
    counts = torch.bincount(orientations, minlength=8)
    assert counts.min() > 850
    assert counts.max() < 1150


def test_colour_changes_differ_from_sample_to_sample_and_stay_in_range():
    images = torch.full((16, 3, 4, 4), 128, dtype=torch.uint8)
    changed, _ = augment(images, 5, STRONG)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({round(float(sample.mean()), 5) for sample in changed}) > 12
    untouched, _ = augment(images, 5, PLAIN)
    assert torch.equal(untouched, images.float() / 255)


@pytest.mark.parametrize("settings", [PLAIN, STRONG, AugmentSettings(color=0, hue=0.1), AugmentSettings(hue=0)])
def test_the_seed_alone_decides(settings):
    images = image_batch(6)
    torch.manual_seed(0)
    first = augment(images, 11, settings)
    torch.manual_seed(999)
    torch.rand(7)
    augment(image_batch(2), 5, STRONG)
    again = augment(images, 11, settings)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], augment(images, 12, settings)[0])


def test_the_global_generators_do_not_move():
    augment(image_batch(2), 1, STRONG)
    before = global_state()
    augment(image_batch(6), 2, STRONG)
    after = global_state()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_colour_does_not_move_the_orientations():
    assert torch.equal(augment(image_batch(), 4, PLAIN)[1], augment(image_batch(), 4, STRONG)[1])


def test_what_goes_in_is_left_as_it_is():
    images = image_batch()
    kept = images.clone()
    augment(images, 1, STRONG)
    assert torch.equal(images, kept)
