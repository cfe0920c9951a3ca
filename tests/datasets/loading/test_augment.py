from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.properties import examples
from tissuebench.datasets.color.stain import rgb_to_hed
from tissuebench.datasets.loading.augment import Geometry, augment, orient, orient_each
from tissuebench.datasets.loading.augment_settings import N_ORIENTATIONS, AugmentSettings
from tissuebench.datasets.types import IGNORE_LABEL

PLAIN = AugmentSettings(color=0, hue=0)
STRONG = AugmentSettings(color=0.4, hue=0.1)
EVERYTHING = AugmentSettings(color=0.3, hue=0.1, scale=0.5, blur=1.5, stain=0.2)
ZOOM = AugmentSettings(color=0, hue=0, scale=0.5)
BLUR = AugmentSettings(color=0, hue=0, blur=2)
STAIN = AugmentSettings(color=0, hue=0, stain=0.2)
seeds = st.integers(0, 2**62)


def image_batch(n=24, size=8):
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def weighted_sum(images):
    """A number that moves when any value does, or changes places with another."""
    return float((images.double() * (torch.arange(images.numel()).reshape(images.shape) % 97 + 1)).sum())


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
    turned, geometry = augment(images, seed, PLAIN)
    assert (turned.dtype, geometry.orientations.dtype) == (torch.float32, torch.int64)
    assert torch.equal((turned[:, 0] * 255).round().long(), geometry.apply_to_labels(masks))
    assert torch.equal(geometry.apply_to_labels(masks), orient_each(masks, geometry.orientations))


def test_all_orientations_occur_about_equally_often():
    _, geometry = augment(torch.zeros((8000, 3, 1, 1), dtype=torch.uint8), 3, PLAIN)
    counts = torch.bincount(geometry.orientations, minlength=8)
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


@pytest.mark.parametrize(
    "settings", [PLAIN, STRONG, AugmentSettings(color=0, hue=0.1), AugmentSettings(hue=0), EVERYTHING]
)
def test_the_seed_alone_decides(settings):
    images = image_batch(6)
    torch.manual_seed(0)
    first = augment(images, 11, settings)
    torch.manual_seed(999)
    torch.rand(7)
    augment(image_batch(2), 5, STRONG)
    again = augment(images, 11, settings)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].orientations, again[1].orientations)
    assert torch.equal(first[1].zooms, again[1].zooms)
    assert not torch.equal(first[0], augment(images, 12, settings)[0])


def test_the_global_generators_do_not_move():
    augment(image_batch(2), 1, EVERYTHING)
    before = global_state()
    augment(image_batch(6), 2, EVERYTHING)
    after = global_state()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


@pytest.mark.parametrize("other", [STRONG, ZOOM, BLUR, STAIN, EVERYTHING])
def test_one_kind_does_not_move_another(other):
    plain, changed = augment(image_batch(), 4, PLAIN)[1], augment(image_batch(), 4, other)[1]
    assert torch.equal(plain.orientations, changed.orientations)
    assert torch.equal(changed.zooms, augment(image_batch(), 4, ZOOM)[1].zooms if other.scale else plain.zooms)
    assert torch.equal(plain.zooms, torch.ones(24))


def test_what_goes_in_is_left_as_it_is():
    images = image_batch()
    kept = images.clone()
    masks = images[:, 0].long()
    augment(images, 1, EVERYTHING)[1].apply_to_labels(masks)
    assert torch.equal(images, kept)
    assert torch.equal(masks, kept[:, 0].long())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (AugmentSettings(), 110215.56411021567),
        (STRONG, 106966.80145513607),
        (PLAIN, 113072.55518767238),
    ],
)
def test_flips_and_colours_are_those_of_the_first_release(settings, expected):
    """Golden: computed before zoom, blur and stain were there; trials of then and now have the same bits."""
    changed, geometry = augment(image_batch(6, 16), 11, settings)
    assert geometry.orientations.tolist() == [1, 7, 0, 3, 1, 7]
    assert weighted_sum(changed) == pytest.approx(expected, rel=1e-9)


@examples(60)
@given(st.data())
def test_a_slice_is_augmented_as_in_the_whole_batch(data):
    """What several processes do to their parts of a batch is, bit for bit, what one does to all of it."""
    total, size = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([5, 8, 13, 32]))
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    settings = data.draw(st.sampled_from([PLAIN, AugmentSettings(), ZOOM, BLUR, STAIN, EVERYTHING]))
    seed, images = data.draw(seeds), image_batch(total, size)
    masks = images[:, 1].long()
    whole, geometry = augment(images, seed, settings)
    part, moved = augment(images[start:stop], seed, settings, start, total)
    assert torch.equal(part, whole[start:stop])
    assert torch.equal(moved.orientations, geometry.orientations[start:stop])
    assert torch.equal(moved.zooms, geometry.zooms[start:stop])
    assert torch.equal(moved.apply_to_labels(masks[start:stop]), geometry.apply_to_labels(masks)[start:stop])


@pytest.mark.parametrize(("offset", "total"), [(0, 3), (1, 4), (-1, 9)])
def test_a_slice_outside_its_batch_is_refused(offset, total):
    with pytest.raises(ValueError, match="4 images from"):
        augment(image_batch(4), 0, PLAIN, offset, total)


@given(seeds, st.sampled_from([0.1, 0.5, 1.0]), st.integers(5, 33))
def test_a_mask_holds_only_labels_that_it_held_before(seed, scale, size):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.tensor([0, 3, 17, 254, IGNORE_LABEL])[torch.randint(5, (4, size, size), generator=generator)]
    images = torch.zeros((4, 3, size, size), dtype=torch.uint8)
    _, geometry = augment(images, seed, AugmentSettings(scale=scale))
    moved = geometry.apply_to_labels(masks)
    assert (moved.shape, moved.dtype) == (masks.shape, torch.int64)
    for before, after in zip(masks, moved, strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist())


def test_zooms_by_hand():
    """Twice as large: the middle 2 x 2 of 4 x 4 fills it. Half as large: two pixels of margin, mirrored."""
    mask = torch.arange(16).reshape(1, 4, 4)
    still = torch.tensor([0])
    larger = Geometry(still, torch.tensor([2.0])).apply_to_labels(mask)
    assert larger[0].tolist() == [[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [9, 9, 10, 10]]
    step = torch.arange(8).repeat(1, 8, 1)
    smaller = Geometry(still, torch.tensor([0.5])).apply_to_labels(step)[0, 0].tolist()
    assert smaller[2:6] == sorted(smaller[2:6])  # the whole width in the middle half
    assert smaller == smaller[3::-1] + smaller[:3:-1]  # and mirrored about its borders
    assert smaller[5] - smaller[2] >= 5


def test_zooms_lie_between_their_bounds_and_are_as_often_above_1_as_below():
    _, geometry = augment(torch.zeros((4000, 3, 1, 1), dtype=torch.uint8), 3, ZOOM)
    assert 1 / 1.5 <= float(geometry.zooms.min()) < 0.68
    assert 1.48 < float(geometry.zooms.max()) <= 1.5
    assert 0.47 < float((geometry.zooms > 1).float().mean()) < 0.53


@given(seeds)
def test_images_and_masks_zoom_together(seed):
    """The border between two colours is where it is between two labels, to the pixel that bilinear mixes."""
    halves = torch.zeros((4, 3, 32, 32), dtype=torch.uint8)
    halves[:, :, :, 13:] = 255
    halves[:, :, 20:] = 255
    moved, geometry = augment(halves, seed, ZOOM)
    labels = geometry.apply_to_labels((halves[:, 0] == 255).long())
    clear = (moved[:, 0] < 0.02) | (moved[:, 0] > 0.98)
    assert torch.equal((moved[:, 0] > 0.5)[clear].long(), labels[clear])
    assert clear.float().mean() > 0.75


def test_blur_keeps_the_mean_and_takes_the_noise_sample_by_sample():
    images = image_batch(64, 32)
    plain, blurred = augment(images, 6, PLAIN)[0], augment(images, 6, BLUR)[0]
    assert torch.allclose(plain.mean(dim=(2, 3)), blurred.mean(dim=(2, 3)), atol=0.02)
    kept = (blurred.std(dim=(1, 2, 3)) / plain.std(dim=(1, 2, 3))).sort().values
    assert kept[0] < 0.2  # sigma near 2
    assert kept[-1] > 0.9  # sigma near 0
    assert len(set(kept.tolist())) > 55
    flat = torch.full((3, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.allclose(augment(flat, 6, BLUR)[0], flat / 255, atol=1e-6)


def test_blur_is_a_gaussian_of_the_sigma_drawn():
    """A point of light spreads with the variance of the Gaussian, sigma² in each direction."""
    images = torch.zeros((40, 3, 33, 33), dtype=torch.uint8)
    images[:, :, 16, 16] = 255
    blurred, _ = augment(images, 2, BLUR)
    away = torch.arange(33) - 16.0
    variances = (blurred[:, 0].sum(dim=1) * away**2).sum(dim=1)
    assert 1.5 < float(variances.max()) ** 0.5 <= 2
    assert float(variances.min()) ** 0.5 < 0.4
    assert torch.allclose(variances, (blurred[:, 0].sum(dim=2) * away**2).sum(dim=1), atol=1e-5)


def test_stain_moves_each_stain_of_each_sample_within_its_bounds():
    images = torch.full((500, 3, 2, 2), 150, dtype=torch.uint8)
    changed, _ = augment(images, 8, STAIN)
    before, after = (rgb_to_hed(each)[:, :, 0, 0] for each in (images / 255, changed))
    bound = 0.2 * before.abs() + 0.2 / np.log(1e6) + 1e-6
    inside = (after - before).abs() <= bound
    assert inside[(changed.amax(dim=(1, 2, 3)) < 1)].all()
    for stain in range(3):
        assert (after[:, stain] - before[:, stain]).abs().max() > 0.75 * bound[0, stain]
    moved = after - before
    assert torch.corrcoef(moved.T).fill_diagonal_(0).abs().max() < 0.2  # each stain by itself


@pytest.mark.parametrize("settings", [STRONG, ZOOM, BLUR, STAIN, EVERYTHING])
def test_whatever_happens_values_stay_between_0_and_1(settings):
    extremes = image_batch(32, 16)
    extremes[:16] = (extremes[:16] > 127) * 255
    changed, _ = augment(extremes, 7, settings)
    assert changed.isfinite().all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert changed.shape == extremes.shape


@pytest.mark.parametrize("key", ["scale", "blur", "stain", "color", "hue"])
@pytest.mark.parametrize("value", [-0.1, 100, "much", float("nan")])
def test_settings_out_of_bounds_are_refused(key, value):
    with pytest.raises(ValidationError):
        AugmentSettings(**{key: value})


@pytest.mark.parametrize(("key", "value"), [("scale", 0.1), ("crop_px", 16)])
def test_cached_features_refuse_to_be_zoomed_or_cropped(tiny_data, key, value):
    from tissuebench.errors import ConfigError
    from tissuebench.features.shards import FrozenEncoder
    from tissuebench.features.tiles import plan_tiles
    from tissuebench.plans.schema import Plan

    network = {"encoder": "resnet18", "weights": "none"}
    plan = Plan(budgets=("masks:1p",), network=network, augmentation=AugmentSettings(**{key: value}))
    with pytest.raises(ConfigError, match=rf"^augmentation\.{key} needs network\.encoder_mode: finetune[^\n]*$"):
        plan_tiles(FrozenEncoder(plan.network, 4), plan.augmentation, tiny_data.store, tiny_data.split)
