"""The slide at the resolution of the training, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tissuebench.errors import DataError
from tissuebench.prediction import open_slide as opening
from tissuebench.prediction.open_slide import open_trained_on, picture_of


@pytest.mark.parametrize(
    ("mpp", "given", "size", "scale", "said"),
    [
        (1.0, None, (170, 230), 1.0, []),
        (2.0, None, (85, 115), 2.0, []),
        (0.5, None, (340, 460), 0.5, ["it was enlarged"]),
        (2.0, 2.0, (170, 230), 1.0, ["the file says 1 µm a pixel; the given 2 is used"]),
        (None, None, (170, 230), 1.0, ["the resolution of the training data is unknown"]),
    ],
)
def test_size_scale_and_warnings(small_slide, mpp, given, size, scale, said):
    slide, warnings = open_trained_on(small_slide, mpp, given, "")
    with slide:
        assert (slide.height, slide.width) == size
        assert slide.scale == pytest.approx(scale)
    assert len(warnings) == len(said)
    assert all(part in line for part, line in zip(said, warnings, strict=True))


def test_an_image_that_does_not_say_its_resolution(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.full((20, 30, 3), 230, np.uint8)).save(path)
    with pytest.raises(DataError, match=r"trained at 0\.5 µm; give --mpp"):
        open_trained_on(path, 0.5, None, "")
    slide, warnings = open_trained_on(path, 0.5, 0.25, "")
    with slide:
        assert (slide.height, slide.width, slide.mpp) == (10, 15, 0.5)
    assert warnings == []
    slide, warnings = open_trained_on(path, None, None, "")
    with slide:
        assert slide.mpp is None
    assert any("areas are in pixels only" in line for line in warnings)


def test_a_large_slide_has_a_small_picture_that_says_its_scale(small_slide, monkeypatch):
    monkeypatch.setattr(opening, "PICTURE_PX", 46)
    slide, _ = open_trained_on(small_slide, 2.0, None, "")
    with slide:
        picture, scale = picture_of(slide)
    assert picture.shape == (34, 46, 3)
    assert scale == pytest.approx(115 / 46)
