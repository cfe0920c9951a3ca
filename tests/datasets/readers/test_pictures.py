"""Plain pictures whose pixels are not 8-bit RGB: the right colours, or a refusal that says what they are."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tissuebench.datasets.readers import open_slide, require_colour
from tissuebench.errors import DataError


def png16(path, pixels):
    """A PNG of 16 bits a channel, (H, W, 3) uint16, written by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("most", [4095, 65535])
def test_sixteen_bits_a_channel_are_refused(tmp_path, drawn, most):
    path = png16(tmp_path / "deep.png", drawn.smooth(30, 40).astype(np.uint16) * (most // 255))
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits a channel"):
        open_slide(path, None)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("1", "png"), ("1", "bmp"), ("L", "png"), ("L", "jpg"), ("L", "bmp"), ("LA", "png")]
)
def test_grey_pictures_are_refused(tmp_path, drawn, mode, suffix):
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(drawn.smooth(30, 40)).convert("L").convert(mode).save(path)
    with pytest.raises(DataError, match=rf"grey\.{suffix}: not 8-bit RGB \(grey, mode"):
        open_slide(path, None)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_several_frames_are_refused(tmp_path, drawn, kind):
    frames = [Image.fromarray(np.roll(drawn.smooth(30, 40), 9 * shift, axis=0)) for shift in range(3)]
    path = tmp_path / f"moving.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"moving\.{kind}: 3 frames, a slide has one"):
        open_slide(path, None)


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path, drawn):
    pixels = drawn.smooth(60, 80)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    with open_slide(tmp_path / "cmyk.jpg", None) as slide:
        assert np.abs(slide.region(0, 0, 60, 80).astype(int) - pixels).mean() < 6


def greyish(noise=0, height=64, width=64):
    """A grey picture of dark structures on white, as RGB."""
    rng = np.random.default_rng(3)
    grey = np.where(rng.random((height // 8, width // 8)) < 0.3, 120, 245).repeat(8, axis=0).repeat(8, axis=1)
    return np.clip(grey[..., None] + rng.integers(-noise, noise + 1, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0, 2])
def test_grey_saved_as_colour_is_told(noise):
    with pytest.raises(DataError, match=r"scan\.tif: grey in all pixels.*leave it out"):
        require_colour(greyish(noise), "scan.tif")


def test_stained_tissue_is_colour_however_little_there_is():
    picture = greyish(2)
    picture[:3, :3] = (200, 120, 180)
    require_colour(picture, "a little eosin on dust")
    require_colour(np.full((64, 64, 3), 243, np.uint8), "glass")
    filled = np.zeros((64, 64, 3), np.uint8)
    filled[:20] = 240
    filled[5:9, 5:9] = (200, 120, 180)
    require_colour(filled, "in a black frame")
