"""Pen ink on glass is not tissue; dark and colourful tissue stays tissue."""

from __future__ import annotations

import numpy as np
import pytest

from tissuebench.datasets.readers import blank_notes
from tissuebench.datasets.store.tissue import shrink, tissue_mask

BLACK, GREEN, BLUE = (22, 20, 25), (30, 120, 60), (35, 70, 170)


def slide(side=1600):
    """Glass with a disc of eosin and, in it, a smaller one of haematoxylin."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:side, :side] - side // 2
    distance = np.hypot(y, x)
    pixels = np.full((side, side, 3), (243, 242, 243), np.int16)
    pixels[distance < 500] = (226, 150, 190)
    pixels[distance < 200] = (110, 50, 150)
    return np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)


def painted(where, colour, noise=4):
    pixels = slide()
    rng = np.random.default_rng(5)
    ink = np.array(colour) + rng.integers(-noise, noise + 1, (*pixels.shape[:2], 3))
    pixels[where] = np.clip(ink, 0, 255)[where]
    return pixels


def box(top, bottom, left, right, side=1600):
    where = np.zeros((side, side), bool)
    where[top:bottom, left:right] = True
    return where


@pytest.mark.parametrize("colour", [BLACK, GREEN, BLUE])
@pytest.mark.parametrize("thick", [20, 40, 120])
def test_strokes_on_glass_are_not_tissue(colour, thick):
    ring = np.abs(np.hypot(*(np.mgrid[:1600, :1600] - 800)) - 680) < thick / 2
    for where in (box(100, 100 + thick, 100, 1500), ring):
        small = shrink(painted(where, colour))
        mask, expected = tissue_mask(small), tissue_mask(shrink(slide()))
        assert abs(mask.mean() - expected.mean()) < 0.02
        (note,) = blank_notes(small)
        assert "pen ink on glass" in note


@pytest.mark.parametrize(
    ("kind", "colour"),
    [
        ("anthracosis", (30, 28, 30)),
        ("melanin", (62, 40, 30)),
        ("haemorrhage", (110, 20, 30)),
        ("nuclei", (60, 30, 110)),
        ("alcian blue", (80, 150, 190)),
        ("light green", (60, 150, 110)),
    ],
)
def test_dark_and_colourful_tissue_stays_tissue(kind, colour):
    small = shrink(painted(box(500, 760, 520, 800), colour))
    assert np.array_equal(tissue_mask(small), tissue_mask(shrink(slide()))), kind
    assert blank_notes(small) == ()


@pytest.mark.parametrize("colour", [(70, 150, 100), (70, 130, 190)])
def test_a_slide_stained_green_or_blue_is_tissue(colour):
    pixels = slide()
    stained = pixels.min(axis=2) < 200
    small = shrink(painted(stained, colour))
    assert abs(tissue_mask(small).mean() - stained.mean()) < 0.05


def test_ink_beside_fill(tmp_path):
    where = box(100, 140, 400, 1500)
    pixels = painted(where, BLACK)
    pixels[:, :300] = 0
    small = shrink(pixels)
    mask = tissue_mask(small)
    assert not mask[:12].any()
    assert not mask[:, :18].any()
    fill, ink = blank_notes(small)
    assert "black fill" in fill
    assert "pen ink" in ink
