"""Black fill is not tissue; slides without it keep the mask that they have always had."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tissuebench.datasets.readers import blank_notes, require_brightfield
from tissuebench.datasets.store.tissue import shrink, tissue_mask
from tissuebench.datasets.synthetic import SyntheticConfig, cohort, render_slide
from tissuebench.errors import DataError


def slide(height=1600, width=2400):
    """Glass with a square of tissue that covers a quarter."""
    rng = np.random.default_rng(4)
    pixels = np.full((height, width, 3), (240, 238, 241), np.int16)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = (190, 110, 170)
    return np.clip(pixels + rng.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8)


def plain_rule(small):
    """The rule of slides without fill, by hand."""
    intensity = np.asarray(Image.fromarray(small).filter(ImageFilter.BoxBlur(1)), dtype=np.float64).mean(axis=2)
    white = max(float(np.percentile(intensity, 99)), 200.0)
    return (-np.log10(np.clip(intensity, 1.0, None) / white) > 0.06).astype(np.uint8)


@pytest.mark.parametrize("value", [0, 3])
@pytest.mark.parametrize("cut", ["left", "frame", "corner", "rows"])
def test_fill_is_not_tissue(cut, value):
    pixels = slide()
    black = np.zeros(pixels.shape[:2], bool)
    if cut == "left":
        black[:, :560] = True
    elif cut == "frame":
        black[:] = True
        black[333:-333, 450:-450] = False
    elif cut == "corner":
        black[np.add.outer(np.arange(1600), np.arange(2400)) < 1500] = True
    else:
        black[905:1345] = True
    pixels[black] = value
    small = shrink(pixels)
    mask = tissue_mask(small)
    expected = tissue_mask(shrink(slide())).astype(bool) & (
        shrink(np.repeat(black[..., None] * np.uint8(255), 3, 2))[..., 0] == 0
    )
    assert abs(mask.mean() - expected.mean()) < 0.02
    assert not mask[small.max(axis=2) <= 24].any()
    (note,) = blank_notes(small)
    assert abs(float(note.partition("%")[0]) / 100 - black.mean()) < 0.03
    assert note.endswith("of the slide is black fill where nothing was scanned")
    require_brightfield(small, "filled")


def test_a_few_black_blocks_are_not_fill():
    pixels = slide()
    pixels[700:732, 1000:1032] = 0  # melanin, a speck of ink
    small = shrink(pixels)
    assert blank_notes(small) == ()
    assert np.array_equal(tissue_mask(small), plain_rule(small))


def test_a_slide_of_fill_alone_has_no_tissue():
    black = np.zeros((20, 30, 3), np.uint8)
    assert not tissue_mask(black).any()
    with pytest.raises(DataError, match="fluorescence"):
        require_brightfield(black, "black")


@pytest.mark.parametrize("cut", [0, 60])
def test_fluorescence_on_pure_black_is_still_refused(cut):
    """Signal that fades into a background of zeros, in one colour or grey."""
    y, x = np.mgrid[0:400, 0:400]
    signal = np.clip(400 * np.exp(-((y - 200) ** 2 + (x - 150) ** 2) / 9000) - cut, 0, 255)
    for colour in ((0, 0, 1), (1, 1, 1), (0.2, 1, 0.1)):
        pixels = (signal[..., None] * np.array(colour)).astype(np.uint8)
        with pytest.raises(DataError, match="fluorescence"):
            require_brightfield(pixels, "nuclei")


@pytest.mark.parametrize("glass", [243, 255])
def test_an_inverted_slide_is_still_refused(glass):
    pixels = slide()
    pixels[pixels.min(axis=2) > 220] = glass
    small = 255 - shrink(pixels)
    assert np.median(small.max(axis=2)) < 64
    with pytest.raises(DataError, match="inverted"):
        require_brightfield(small, "inverted")


def test_dark_tissue_without_glass_beside_fill_is_brightfield():
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:150] = (110, 40, 130)
    require_brightfield(pixels, "haematoxylin")


def test_the_masks_of_drawn_slides_are_those_without_the_rule():
    config = SyntheticConfig(size_px=512)
    for patient in cohort(config)[:4]:
        small = shrink(render_slide(config, patient).image)
        assert np.array_equal(tissue_mask(small), plain_rule(small))


def test_the_masks_of_real_pictures_are_those_without_the_rule(shared_data):
    files = sorted((shared_data / "ebhi_seg" / "images").rglob("*.png"))[::40]
    assert len(files) > 10
    for file in files:
        small = shrink(np.asarray(Image.open(file).convert("RGB")))
        assert np.array_equal(tissue_mask(small), plain_rule(small))
