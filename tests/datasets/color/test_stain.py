from __future__ import annotations

import pickle

import numpy as np
import pytest
import skimage.color
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from tests.properties import examples
from tissuebench.datasets.color.lab import lab_to_rgb, rgb_to_lab
from tissuebench.datasets.color.stain import Macenko, Reinhard, hed_to_rgb, jitter_stains, normaliser, rgb_to_hed
from tissuebench.errors import ConfigError, DataError

BOTH = (Macenko(), Reinhard())
H_AND_E = np.array([[0.60, 0.70, 0.39], [0.15, 0.85, 0.50]])  # rows: of a slide of its own, not the target's
images = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


def tissue(seed=0, stains=H_AND_E, side=96, noise=1.0, strength=1.5):
    """H&E made by the law of absorption: two concentrations that vary from pixel to pixel, and a camera's noise."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(1.2, strength / 3, size=(side, side, len(stains))) + 0.1
    stains = np.asarray(stains) / np.linalg.norm(stains, axis=1, keepdims=True)
    light = 240 * np.exp(-amounts @ stains) - 1 + rng.normal(0, noise, size=(side, side, 3))
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def pixels_of(image):
    return image.reshape(-1, 3)


def difference(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def planes(image):
    """(H, W, 3) uint8 as (1, 3, H, W) float64 in 0..1."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255


@pytest.fixture(scope="module")
def real_images(shared_data):
    """Some images of each diagnosis, and a part with tissue of each of the two H&E slides."""
    paths = sorted((shared_data / "ebhi_seg" / "images").glob("*.png"))[::40]
    found = {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}
    for name, y, x in (("CMU-1-Small-Region", 1000, 800), ("TCGA-CR-7395-01A-01-TS1", 1500, 2000)):
        found[name] = tifffile.imread(shared_data / "wsi_small" / f"{name}.svs", key=0)[y : y + 512, x : x + 512]
    assert len(found) > 15
    return found


@given(images)
def test_stains_are_those_of_scikit_image(image):
    """Which cuts negative amounts off; here they are kept."""
    ours = rgb_to_hed(planes(image))[0].permute(1, 2, 0)
    assert np.allclose(ours.clamp(min=0), skimage.color.rgb2hed(image), atol=1e-9)
    hed = np.abs(ours.numpy())
    back = hed_to_rgb(torch.from_numpy(hed).permute(2, 0, 1))
    assert np.allclose(back.permute(1, 2, 0), skimage.color.hed2rgb(hed), atol=1e-9)


@given(images)
def test_stains_and_back(image):
    whole = planes(image)
    assert torch.allclose(hed_to_rgb(rgb_to_hed(whole)), whole, atol=2e-6)
    single = whole.float()
    assert torch.allclose(hed_to_rgb(rgb_to_hed(single)), single, atol=1e-5)
    assert rgb_to_hed(single).dtype == torch.float32


def test_a_colour_of_one_stain_by_hand():
    """Natural density .5 of haematoxylin: exp(-.5 M_H)."""
    colour = torch.exp(-0.5 * torch.tensor([0.65, 0.70, 0.29], dtype=torch.float64)).reshape(3, 1, 1)
    assert rgb_to_hed(colour).ravel().tolist() == pytest.approx([0.5 / np.log(1e6), 0, 0], abs=1e-12)


@given(st.integers(0, 2**32), st.floats(0, 0.9))
def test_stains_are_scaled_and_shifted(seed, strength):
    """The published formula in the published unit, natural density: s' = α s + β."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((5, 3, 4, 4), generator=generator, dtype=torch.float64).clamp(min=0.01)
    factors = 1 + strength * (2 * torch.rand((5, 3), generator=generator, dtype=torch.float64) - 1)
    shifts = strength * (2 * torch.rand((5, 3), generator=generator, dtype=torch.float64) - 1)
    matrix = torch.from_numpy(skimage.color.rgb_from_hed)
    stains = -image.log().permute(0, 2, 3, 1) @ torch.linalg.inv(matrix)
    expected = torch.exp(-(stains * factors[:, None, None] + shifts[:, None, None]) @ matrix).clamp(0, 1)
    assert torch.allclose(jitter_stains(image, factors, shifts).permute(0, 2, 3, 1), expected, atol=1e-9)


def test_no_jitter_changes_nothing():
    image = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(jitter_stains(image, torch.ones(2, 3), torch.zeros(2, 3)), image, atol=1e-5)


@given(images)
def test_lab_is_that_of_scikit_image_and_comes_back(image):
    lab = rgb_to_lab(image)
    assert np.allclose(lab, skimage.color.rgb2lab(image), atol=1e-6)
    assert np.array_equal(np.rint(lab_to_rgb(lab) * 255), image)


@given(arrays.arrays(np.float64, (4, 3), elements=st.floats(-300, 300)))
def test_no_lab_value_leaves_the_range_of_a_screen(lab):
    rgb = lab_to_rgb(lab)
    assert np.isfinite(rgb).all()
    assert rgb.min() >= 0
    assert rgb.max() <= 1


def published_macenko(image, target=None):
    theirs = NumpyMacenkoNormalizer()
    if target is not None:
        theirs.fit(target)
    return theirs.normalize(image, stains=False)[0]


def published_reinhard(image, target):
    theirs = NumpyReinhardNormalizer()
    theirs.fit(target)
    return theirs.normalize(image)


@pytest.mark.parametrize("seed", range(5))
def test_synthetic_tissue_as_the_published_implementation_normalises_it(seed):
    """At most one grey level apart: it cuts decimals off where we round."""
    image, target = tissue(seed), tissue(seed + 100, [[0.65, 0.70, 0.29], [0.07, 0.99, 0.30]])
    macenko, reinhard = (way.towards(pixels_of(target)) for way in (Macenko, Reinhard))
    assert difference(Macenko().fit(pixels_of(image)).apply(image), published_macenko(image)) <= 1
    assert difference(macenko.fit(pixels_of(image)).apply(image), published_macenko(image, target)) <= 1
    assert difference(reinhard.fit(pixels_of(image)).apply(image), published_reinhard(image, target)) <= 1


def test_real_tissue_as_the_published_implementation_normalises_it(real_images):
    target = real_images["CMU-1-Small-Region"]
    macenko, reinhard = (way.towards(pixels_of(target)) for way in (Macenko, Reinhard))
    for name, image in real_images.items():
        sample = pixels_of(image)
        assert difference(Macenko().fit(sample).apply(image), published_macenko(image)) <= 1, name
        assert difference(macenko.fit(sample).apply(image), published_macenko(image, target)) <= 1, name
        assert difference(reinhard.fit(sample).apply(image), published_reinhard(image, target)) <= 1, name


def test_the_published_target():
    theirs = NumpyMacenkoNormalizer()
    assert np.array_equal(Macenko().target_stains, theirs.HERef)
    assert np.array_equal(Macenko().target_maxima, theirs.maxCRef)


def test_reinhards_target_is_the_tissue_it_names(shared_data):
    slide = pixels_of(tifffile.imread(shared_data / "wsi_small" / "CMU-1-Small-Region.svs", key=0))
    density = -np.log((slide + 1.0) / 240).mean(axis=1)
    found = Reinhard.towards(slide[density >= 0.15])
    assert np.allclose(found.target_mean, Reinhard().target_mean, atol=0.01)
    assert np.allclose(found.target_deviation, Reinhard().target_deviation, atol=0.01)


def test_the_stains_that_made_the_image_are_found_haematoxylin_first():
    made = H_AND_E / np.linalg.norm(H_AND_E, axis=1, keepdims=True)
    for stains in (H_AND_E, H_AND_E[::-1]):
        fitted = Macenko().fit(pixels_of(tissue(stains=stains, side=256, noise=0)))
        cosines = (fitted.stains * made.T).sum(axis=0)
        assert np.degrees(np.arccos(cosines)).max() < 4
        assert fitted.stains[0, 0] > fitted.stains[0, 1]
        assert np.allclose(np.linalg.norm(fitted.stains, axis=0), 1)


def test_two_stainings_of_the_same_tissue_end_up_alike():
    pale = tissue(stains=[[0.65, 0.70, 0.29], [0.07, 0.99, 0.30]], strength=1.2)
    dark = tissue(stains=[[0.55, 0.75, 0.37], [0.20, 0.80, 0.56]], strength=1.8)
    apart = np.abs(pale.astype(float) - dark).mean()
    for way in BOTH:
        one, other = (way.fit(pixels_of(image)).apply(image).astype(float) for image in (pale, dark))
        assert np.abs(one - other).mean() < 0.4 * apart


def test_the_result_measures_as_the_target():
    image, target = tissue(3), tissue(4, [[0.65, 0.70, 0.29], [0.07, 0.99, 0.30]], strength=1.2)
    goal = Macenko.towards(pixels_of(target))
    reached = Macenko.towards(pixels_of(goal.fit(pixels_of(image)).apply(image)))
    assert np.allclose(reached.target_stains, goal.target_stains, atol=0.03)
    assert np.allclose(reached.target_maxima, goal.target_maxima, rtol=0.05)
    wanted = Reinhard.towards(pixels_of(target))
    got = Reinhard.towards(pixels_of(wanted.fit(pixels_of(image)).apply(image)))
    assert np.allclose(got.target_mean, wanted.target_mean, atol=1)
    assert np.allclose(got.target_deviation, wanted.target_deviation, atol=1)


@examples(40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 3))
def test_block_by_block_is_the_same_as_whole(height, width, seed):
    image = tissue(seed, side=90)
    for way in BOTH:
        fitted = way.fit(pixels_of(image))
        whole = fitted.apply(image)
        for y in range(0, 90, height):
            for x in range(0, 90, width):
                block = image[y : y + height, x : x + width]
                assert np.array_equal(fitted.apply(block), whole[y : y + height, x : x + width])


@pytest.mark.parametrize("way", BOTH)
def test_the_order_of_the_sample_does_not_matter_nor_does_what_came_before(way):
    image = tissue()
    first = way.fit(pixels_of(image)).apply(image)
    way.fit(pixels_of(tissue(9)))
    assert np.array_equal(way.fit(pixels_of(image)).apply(image), first)
    shuffled = np.random.default_rng(0).permutation(pixels_of(image))
    assert difference(way.fit(shuffled).apply(image), first) <= 1
    sampled = shuffled[:4000]
    assert difference(way.fit(sampled).apply(image), first) <= 16


@pytest.mark.parametrize("way", BOTH)
def test_a_fit_goes_to_another_process_and_leaves_its_input_alone(way):
    image = tissue()
    kept = image.copy()
    fitted = way.fit(pixels_of(image))
    image.flags.writeable = False
    result = pickle.loads(pickle.dumps(fitted)).apply(image)
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert np.array_equal(result, fitted.apply(image))
    assert np.array_equal(image, kept)


def one_stain():
    return tissue(stains=H_AND_E[:1])


def flat(value):
    return np.full((64, 64, 3), value, dtype=np.uint8)


def nearly_white():
    return np.random.default_rng(0).integers(225, 256, size=(64, 64, 3)).astype(np.uint8)


def glass_with_a_speck():
    image = np.tile(nearly_white(), (4, 4, 1))
    image[:16, :16] = tissue()[:16, :16]
    return image


def two_flat_colours():
    return np.concatenate([flat((120, 40, 130)), flat((200, 90, 160))])


DEGENERATE = [
    (Macenko(), flat((150, 60, 140)), "one colour"),
    (Reinhard(), flat((150, 60, 140)), "one colour"),
    (Macenko(), flat(255), "0 of 4096 pixels are stained.*white"),
    (Reinhard(), flat(255), "0 of 4096 pixels are stained.*white"),
    (Macenko(), nearly_white(), "nearly white"),
    (Reinhard(), nearly_white(), "nearly white"),
    (Macenko(), flat(0), "one colour"),
    (Macenko(), tissue(side=5), "of 25 pixels are stained"),
    (Macenko(), one_stain(), "fewer than two stains"),
    (Macenko(), glass_with_a_speck(), "of 65536 pixels are stained, the others nearly white; it takes 1311"),
    (Macenko(), np.repeat(tissue()[..., :1], 3, axis=2), "fewer than two stains"),
    (Reinhard(), np.repeat(tissue()[..., :1], 3, axis=2), r"a\* hardly varies"),
    (Macenko(), two_flat_colours(), "fewer than two stains"),
    (Macenko(), np.zeros((0, 1, 3), dtype=np.uint8), "0 of 0 pixels"),
    (Macenko(), tissue().astype(float), r"uint8, not \(9216, 3\) float64"),
    (Reinhard(), np.zeros((3, 4), dtype=np.uint8), r"RGB pixels"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("way", "image", "message"), DEGENERATE)
def test_pixels_that_show_too_little_are_refused_in_one_line(way, image, message):
    sample = image if image.shape[-1] != 3 else pixels_of(image)
    for attempt in (way.fit, way.towards):
        with pytest.raises(DataError, match=rf"^stain normalisation: .*({message})[^\n]*$"):
            attempt(sample)


@examples(150)
@given(st.data())
@pytest.mark.filterwarnings("error")
def test_never_nan_whatever_the_pixels(data):
    """Few colours, in any number: refused in one line, or a normal result."""
    palette = data.draw(arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.just(3))))
    chosen = np.random.default_rng(data.draw(st.integers(0, 9))).integers(len(palette), size=(20, 20))
    image = palette[chosen]
    for way in BOTH:
        try:
            fitted = way.fit(pixels_of(image))
        except DataError as error:
            assert "\n" not in str(error)
            continue
        assert all(np.isfinite(getattr(fitted, name)).all() for name in type(fitted).__slots__)
        fitted.apply(image)


@pytest.mark.parametrize("way", BOTH)
def test_what_is_no_rgb_image_is_refused(way):
    for shape in ((4, 3), (4, 4, 4), (3,)):
        with pytest.raises(DataError, match=r"takes RGB pixels, \(H, W, 3\) uint8, not \([^\n]*\) uint8$"):
            way.fit(pixels_of(tissue())).apply(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(DataError, match=r"takes RGB pixels, \(N, 3\) uint8, not \(96, 96, 3\) uint8$"):
        way.fit(tissue())


def test_normalisers_by_name():
    assert isinstance(normaliser("macenko"), Macenko)
    assert isinstance(normaliser("reinhard"), Reinhard)
    with pytest.raises(
        ConfigError, match=r"^unknown stain normaliser 'makenko': did you mean 'macenko'\? known: [^\n]*$"
    ):
        normaliser("makenko")
