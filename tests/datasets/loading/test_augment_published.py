"""Augmentation of the published recipes: sets of orientations, shares of samples, crops; against torchvision and PIL."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torchvision.transforms import functional as torchvision

from tests.properties import examples
from tissuebench.datasets.loading.augment import augment, orient, recolour
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.errors import ConfigError

OFF = {"color": 0, "hue": 0}
JITTER = {"color": 0, "hue": 0, "jitter": "torchvision"}
FINE_TUNING = AugmentSettings(
    **JITTER,
    orientations="flips",
    brightness=0.5,
    contrast=0.4,
    color_probability=0.3,
    blur=2,
    blur_from=1,
    blur_sigma="per_axis",
    blur_kernel=3,
    blur_probability=0.3,
)
SEGMENTATION = AugmentSettings(**OFF, orientations="horizontal", blur=1, blur_probability=0.5)
CROPS = AugmentSettings(orientations="rotations", scale=0.4, crop_px=5, color_probability=0.5)
SETS = {
    "none": {0: lambda image: image},
    "horizontal": {0: lambda image: image, 4: torchvision.hflip},
    "flips": {
        0: lambda image: image,
        4: torchvision.hflip,
        6: torchvision.vflip,
        2: lambda image: torchvision.hflip(torchvision.vflip(image)),
    },
    "rotations": {turns: lambda image, turns=turns: torchvision.rotate(image, 90 * turns) for turns in range(4)},
}
SETS["dihedral"] = SETS["rotations"] | {
    4 + turns: lambda image, turns=turns: torchvision.hflip(torchvision.rotate(image, 90 * turns)) for turns in range(4)
}
seeds = st.integers(0, 2**62)


def image_batch(n=24, size=12):
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def floats(n=24, size=12):
    return image_batch(n, size).float() / 255


@pytest.mark.parametrize("name", SETS)
def test_each_set_draws_exactly_its_members_equally_often(name):
    members = SETS[name]
    _, geometry = augment(torch.zeros((8000, 3, 1, 1), dtype=torch.uint8), 3, AugmentSettings(orientations=name))
    counts = Counter(geometry.orientations.tolist())
    assert counts.keys() == members.keys()
    assert all(abs(count * len(members) / 8000 - 1) < 0.15 for count in counts.values())


@pytest.mark.parametrize("name", SETS)
def test_members_are_the_flips_and_turns_of_torchvision(name):
    image = image_batch(1)[0]
    for orientation, expected in SETS[name].items():
        assert torch.equal(orient(image, orientation), expected(image)), orientation


@given(seeds, st.sampled_from([*SETS]))
def test_labels_take_the_orientation_of_their_images(seed, name):
    images = image_batch(6)
    turned, geometry = augment(images, seed, AugmentSettings(**OFF, orientations=name))
    assert torch.equal((turned[:, 0] * 255).round().long(), geometry.apply_to_labels(images[:, 0].long()))


@pytest.mark.parametrize("kind", [{"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 0.5}])
@pytest.mark.parametrize("jitter", ["additive", "torchvision"])
def test_each_kind_of_colour_change_by_itself(kind, jitter):
    images, (name,) = floats(), kind
    changed = recolour(images, 4, AugmentSettings(**OFF | {"jitter": jitter}, **kind))
    assert not torch.allclose(changed, images, atol=0.01)
    grey = images.mean(dim=1, keepdim=True).expand_as(images)
    unmoved = torch.allclose(recolour(grey, 4, AugmentSettings(**OFF, jitter=jitter, **kind)), grey, atol=1e-5)
    assert unmoved == (name == "saturation")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", torchvision.adjust_brightness),
        ("contrast", torchvision.adjust_contrast),
        ("saturation", torchvision.adjust_saturation),
    ],
)
def test_torchvision_jitter_is_that_of_torchvision(name, change):
    """Each sample equals torchvision's at one factor between 1 - .5 and 1 + .5, and the factors fill that range."""
    images = floats(16)
    changed = recolour(images, 9, AugmentSettings(**JITTER, **{name: 0.5}))
    candidates = np.linspace(0.5, 1.5, 201)
    factors = []
    for before, after in zip(images, changed, strict=True):
        errors = [float((change(before, factor) - after).abs().max()) for factor in candidates]
        assert min(errors) < 3e-3
        factors.append(candidates[int(np.argmin(errors))])
    assert min(factors) < 0.65
    assert max(factors) > 1.35


def test_additive_brightness_adds_the_same_to_every_value():
    images = floats(30) * 0.2 + 0.4
    moved = recolour(images, 9, AugmentSettings(**OFF, brightness=0.3)) - images
    assert torch.allclose(moved.amin(dim=(1, 2, 3)), moved.amax(dim=(1, 2, 3)), atol=1e-6)
    assert moved.min() < -0.2
    assert moved.max() > 0.2


def test_brightness_contrast_and_saturation_take_color_unless_they_are_set():
    images = floats()
    spelled_out = AugmentSettings(color=0, brightness=0.2, contrast=0.2, saturation=0.2)
    assert torch.equal(recolour(images, 4, spelled_out), recolour(images, 4, AugmentSettings()))
    assert AugmentSettings(color=0.3, contrast=0).color_strengths == (0.3, 0, 0.3, 0.03)


@pytest.mark.parametrize(("kind", "strength"), [("color", {"color": 0.4}), ("blur", {"color": 0, "hue": 0, "blur": 2})])
def test_a_probability_is_the_share_of_samples_that_change(kind, strength):
    images = floats(400, 8)
    key = f"{kind}_probability"
    always = recolour(images, 5, AugmentSettings(**strength))
    assert torch.equal(recolour(images, 5, AugmentSettings(**strength, **{key: 1})), always)
    assert torch.equal(recolour(images, 5, AugmentSettings(**strength, **{key: 0})), images)
    some = recolour(images, 5, AugmentSettings(**strength, **{key: 0.3}))
    is_changed = (some != images).flatten(1).any(dim=1)
    assert torch.equal(some[is_changed], always[is_changed])  # as much as without a probability
    assert 0.22 < is_changed.float().mean() < 0.38


def test_which_samples_are_blurred_and_which_are_recoloured_are_independent():
    images = floats(2000, 4)
    color, blur = {"color": 0.4, "color_probability": 0.5}, {"blur": 2, "blur_probability": 0.5}
    one, other = (
        (recolour(images, 5, AugmentSettings(**each)) != images).flatten(1).any(dim=1).float()
        for each in (color, {**OFF, **blur})
    )
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.07


def test_sigmas_lie_between_blur_from_and_blur():
    """A point of light spreads with the variance of the Gaussian."""
    images = torch.zeros((60, 3, 33, 33))
    images[:, :, 16, 16] = 1
    blurred = recolour(images, 2, AugmentSettings(**OFF, blur=2, blur_from=1))
    sigmas = ((blurred[:, 0].sum(dim=1) * (torch.arange(33) - 16.0) ** 2).sum(dim=1)) ** 0.5
    assert 0.99 < float(sigmas.min()) < 1.1
    assert 1.9 < float(sigmas.max()) < 2.01


@pytest.mark.parametrize("kernel", [3, 7])
def test_a_window_of_given_size_is_that_of_torchvision(kernel):
    images = floats(12, 16)
    blurred = recolour(images, 2, AugmentSettings(**OFF, blur=2, blur_from=1, blur_kernel=kernel))
    candidates = np.linspace(1, 2, 101)
    for before, after in zip(images, blurred, strict=True):
        errors = [float((torchvision.gaussian_blur(before, kernel, sigma) - after).abs().max()) for sigma in candidates]
        assert min(errors) < 2e-3
    own = AugmentSettings(**OFF, blur=2, blur_from=1, blur_kernel=kernel, blur_sigma="per_axis")
    expected = torchvision.gaussian_blur(images, [kernel, kernel], [1.0, 2.0])  # as the official code calls it
    assert torch.allclose(recolour(images, 2, own), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_the_radius_of_pillow_is_the_sigma(sigma):
    """Pillow approximates the Gaussian by boxes: the same to two of 255 grey levels on average."""
    image = np.asarray(Image.fromarray(image_batch(1, 64)[0].permute(1, 2, 0).numpy()).filter(ImageFilter.BoxBlur(1)))
    pillow = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)), dtype=float)
    ours = recolour(
        torch.tensor(image).permute(2, 0, 1)[None].float() / 255,
        0,
        AugmentSettings(**OFF, blur=sigma, blur_from=sigma),
    )
    difference = np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - pillow)[4:-4, 4:-4]
    assert difference.mean() < 2 < np.abs(image - pillow)[4:-4, 4:-4].mean()


@given(seeds, st.integers(1, 12))
def test_labels_are_cropped_where_their_images_are(seed, edge):
    images = image_batch(6)
    masks = torch.stack([images[:, 0], images[:, 1]], dim=1).long()
    cropped, geometry = augment(images, seed, AugmentSettings(**OFF, crop_px=edge))
    assert cropped.shape == (6, 3, edge, edge)
    assert torch.equal((cropped[:, :2] * 255).round().long(), geometry.apply_to_labels(masks))
    assert torch.equal((cropped[:, 0] * 255).round().long(), geometry.apply_to_labels(masks[:, 0]))
    whole = AugmentSettings(**OFF, crop_px=12)
    assert torch.equal(augment(images, seed, whole)[0], augment(images, seed, AugmentSettings(**OFF))[0])


def test_crops_are_drawn_everywhere_equally_often():
    _, geometry = augment(torch.zeros((9000, 3, 6, 6), dtype=torch.uint8), 3, AugmentSettings(crop_px=4))
    counts = Counter(map(tuple, geometry.corners.tolist()))
    assert counts.keys() == {(y, x) for y in range(3) for x in range(3)}
    assert all(850 < count < 1150 for count in counts.values())


@examples(60)
@given(st.data())
def test_a_slice_is_augmented_as_in_the_whole_batch(data):
    total = data.draw(st.integers(1, 9))
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    settings = data.draw(st.sampled_from([FINE_TUNING, SEGMENTATION, CROPS]))
    seed, images = data.draw(seeds), image_batch(total)
    masks = images[:, 1].long()
    whole, geometry = augment(images, seed, settings)
    part, moved = augment(images[start:stop], seed, settings, start, total)
    assert torch.equal(part, whole[start:stop])
    assert torch.equal(moved.apply_to_labels(masks[start:stop]), geometry.apply_to_labels(masks)[start:stop])
    assert part.min() >= 0
    assert part.max() <= 1


def test_a_crop_larger_than_the_images_is_one_line():
    with pytest.raises(
        ConfigError, match=r"^augmentation\.crop_px: a crop of 13 px is larger than a tile of 12 px[^\n]*$"
    ):
        augment(image_batch(), 0, AugmentSettings(crop_px=13))
