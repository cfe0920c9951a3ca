"""Images that are stored turned or mirrored are shown as viewers show them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.readers.plain import PlainReader
from tissuebench.datasets.readers.upright import UprightReader
from tissuebench.errors import DataError

TURNED = range(2, 9)


def shown(stored, orientation):
    """What Pillow shows, which viewers agree with."""
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def stored_at(path, pixels, orientation):
    if path.suffix == ".tif":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(32, 32), extratags=tags, metadata=None)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {"lossless": True}
        Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", ["tif", "png", "webp", "jpg"])
@pytest.mark.parametrize("orientation", [1, *TURNED])
def test_every_orientation_of_every_format(tmp_path, drawn, suffix, orientation):
    pixels = drawn.noise(50, 70) if suffix != "jpg" else drawn.smooth(50, 70)
    path = stored_at(tmp_path / f"slide.{suffix}", pixels, orientation)
    expected = shown(pixels, orientation)
    with open_slide(path, None) as slide:
        assert slide.level0_size == expected.shape[:2]
        region = slide.region(0, 0, *expected.shape[:2])
        assert np.abs(region.astype(int) - expected).max() <= (6 if suffix == "jpg" else 0)
        says = () if orientation == 1 else (f"(orientation {orientation})",)
        assert len(slide.notes) == len(says)
        assert all(one in note for one, note in zip(says, slide.notes, strict=True))


@given(st.sampled_from(TURNED), st.integers(-20, 90), st.integers(-20, 90), st.integers(0, 90), st.integers(0, 90))
def test_a_region_of_a_turned_image_is_the_crop(tmp_path_factory, drawn, orientation, y, x, height, width):
    path = tmp_path_factory.getbasetemp() / "upright.png"
    pixels = drawn.noise(50, 70)
    if not path.exists():
        Image.fromarray(pixels).save(path)
    reader = UprightReader(path, PlainReader(path), orientation)
    expected = drawn.on_canvas(shown(pixels, orientation), y, x, height, width)
    assert np.array_equal(reader.read(0, y, x, height, width), expected)


def test_a_pyramid_that_is_stored_turned_is_refused(tmp_path, drawn):
    path = drawn.pyramid(tmp_path / "slide.tif", drawn.smooth(), 0.5, extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(DataError, match=r"slide\.tif: its orientation tag says 6 .*save the slide upright"):
        open_slide(path, None)


def test_an_orientation_that_is_none_is_ignored(tmp_path, drawn):
    for value in (0, 9, 1000):
        path = stored_at(tmp_path / f"slide{value}.tif", drawn.noise(40, 50), value)
        with open_slide(path, None) as slide:
            assert (slide.level0_size, slide.notes) == ((40, 50), ())
