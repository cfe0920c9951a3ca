"""White background: the published mask, a slow reference, and the rule's way from dataset.yaml to a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.color.white_background import WhiteBackground, white_mask

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "mlps_pseudomask.npz")


def stacked(*images):
    return np.stack([image.transpose(2, 0, 1) for image in images])


def test_the_white_of_the_published_code():
    """Patches of 49 and 50 px, two of 30 px that meet at a corner, grey of exactly 200."""
    expected = GOLDEN["bg_mask"] > 0
    assert np.array_equal(white_mask(stacked(GOLDEN["image"]), WhiteBackground())[0], expected)
    for value in range(100, 251):  # without a least size the mask is the grey image, cut at a value
        found = white_mask(stacked(GOLDEN["image"]), WhiteBackground(grey_above=value, min_px=0))
        assert np.array_equal(found[0], GOLDEN["gray_cv2"] > value)


def slowly(image, white):
    """One pixel after the other: exact fractions, and a flood from each white pixel."""
    red, green, blue = image.astype(int)
    is_white = (299 * red + 587 * green + 114 * blue + 500) // 1000 > white.grey_above
    kept, seen = np.zeros_like(is_white), set()
    for start in zip(*np.nonzero(is_white), strict=True):
        patch, todo = set(), [start]
        while todo:
            y, x = todo.pop()
            if (y, x) in patch or not (0 <= y < is_white.shape[0] and 0 <= x < is_white.shape[1] and is_white[y, x]):
                continue
            patch.add((y, x))
            todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        if start not in seen and len(patch) >= white.min_px:
            for place in patch:
                kept[place] = True
        seen |= patch
    return kept


# Few values, so that patches touch; where fixed point rounds otherwise than fractions no threshold is near.
tiles = arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 9), st.integers(1, 9)),
               elements=st.sampled_from([0, 150, 199, 200, 201, 240, 255]))  # fmt: skip


@given(tiles, st.sampled_from([0, 180, 199, 200, 201, 254, 255]), st.integers(0, 12))
def test_any_images_are_those_of_a_slow_reference(images, grey_above, min_px):
    white = WhiteBackground(grey_above, min_px)
    found = white_mask(images, white)
    assert (found.shape, found.dtype) == ((len(images), *images.shape[2:]), np.bool_)
    for image, mask in zip(images, found, strict=True):
        assert np.array_equal(mask, slowly(image, white))


def test_images_of_a_batch_do_not_touch():
    half = np.full((5, 6, 3), 255, np.uint8)  # 30 px
    assert not white_mask(stacked(half, half), WhiteBackground(min_px=31)).any()
    assert white_mask(stacked(half, half), WhiteBackground(min_px=30)).all()


@pytest.mark.parametrize(("wrong", "says"), [({"grey_above": 256}, "grey_above is 256"), ({"min_px": -1}, "min_px")])
def test_numbers_out_of_range_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        WhiteBackground(**wrong)


def test_only_luad_calls_white_background():
    assert find_recipe("luad_histoseg").white == WhiteBackground()
    assert find_recipe("bcss_wsss").white is None  # white is fat there
    with pytest.raises(ValueError, match="names the class 'glass'"):
        replace(find_recipe("luad_histoseg"), white=WhiteBackground(label="glass"))
