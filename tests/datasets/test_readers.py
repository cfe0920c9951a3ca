from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import tifffile
from PIL import Image

from tissuebench.datasets.readers import read_slide
from tissuebench.errors import DataError

HEIGHT, WIDTH, MPP = 601, 520, 0.5


def smooth_image(height: int = HEIGHT, width: int = WIDTH):
    """Low frequencies only, so that JPEG and resampling cost little."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    channels = [np.sin(y / 37 + k) * 60 + np.cos(x / (29 + 7 * k)) * 50 + 128 for k in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)


def area_mean(image, height: int, width: int):
    """Exact area resampling by hand, along one axis after the other."""

    def weights(source: int, target: int):
        edges = np.linspace(0, source, target + 1)
        grid = np.arange(source)
        overlap = np.minimum(edges[1:, None], grid + 1) - np.maximum(edges[:-1, None], grid)
        return np.clip(overlap, 0, None) / (source / target)

    rows = np.tensordot(weights(image.shape[0], height), image.astype(float), axes=(1, 0))
    return np.tensordot(weights(image.shape[1], width), rows, axes=(1, 1)).transpose(1, 0, 2)


def write_pyramid(path, image, mpp, levels=3, **options):
    pixels = image
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            per_cm = 1e4 / (mpp * 2**level) if mpp else 0
            resolution = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"} if mpp else {}
            tiff.write(
                pixels,
                subfiletype=int(level > 0),
                photometric="rgb",
                metadata=None,
                **{"tile": (128, 128), "compression": "jpeg", **resolution, **options},
            )
            height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
            pixels = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
            pixels = pixels.round().astype(np.uint8)
    return path


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    image = smooth_image()
    return write_pyramid(tmp_path_factory.mktemp("slides") / "slide.tif", image, MPP), image


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (None, (601, 520)),
        (0.5, (601, 520)),
        (1.0, (300, 260)),
        (2.0, (150, 130)),
        (0.75, (401, 347)),
        (1.3, (231, 200)),
    ],
)
def test_a_pyramid_at_a_target_resolution(pyramid, target, shape):
    path, image = pyramid
    slide = read_slide(path, target)
    assert slide.pixels.shape == (*shape, 3)
    assert slide.pixels.dtype == np.uint8
    assert slide.level0_size == (HEIGHT, WIDTH)
    assert slide.mpp == pytest.approx(target or MPP)
    assert slide.scale == pytest.approx((target or MPP) / MPP)
    assert np.abs(slide.pixels - area_mean(image, *shape)).mean() < 3


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path):
    """Levels of different brightness tell which one was read."""
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level, value in enumerate((10, 100, 200)):
            pixels = np.full((512 >> level, 512 >> level, 3), value, dtype=np.uint8)
            options = {"resolution": (2e4 / 2**level,) * 2, "resolutionunit": "CENTIMETER", "photometric": "rgb"}
            tiff.write(pixels, subfiletype=int(level > 0), tile=(128, 128), metadata=None, **options)
    read = {target: int(read_slide(path, target).pixels.mean()) for target in (None, 0.5, 0.9, 1.0, 1.9, 2.0, 8.0)}
    assert read == {None: 10, 0.5: 10, 0.9: 10, 1.0: 100, 1.9: 100, 2.0: 200, 8.0: 200}


def test_pixels_are_averaged_and_not_picked(tmp_path):
    fine = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(200)
    Image.fromarray(fine.astype(np.uint8)).convert("RGB").save(tmp_path / "checks.png")
    assert (read_slide(tmp_path / "checks.png", 1.0, 0.5).pixels == 100).all()


def test_without_a_resolution_the_file_and_the_column_are_named(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", smooth_image(), None)
    with pytest.raises(DataError, match=r"slide\.tif.*column 'mpp'"):
        read_slide(path, 1.0)
    overridden = read_slide(path, 1.0, mpp_override=0.5)
    assert overridden.pixels.shape == (300, 260, 3)
    assert overridden.scale == 2.0
    as_it_is = read_slide(path, None)
    assert (as_it_is.pixels.shape, as_it_is.mpp, as_it_is.scale) == ((HEIGHT, WIDTH, 3), None, 1.0)


def test_the_override_wins_over_the_file(pyramid):
    path, _ = pyramid
    assert read_slide(path, 1.0, mpp_override=0.25).pixels.shape == (150, 130, 3)


@pytest.mark.parametrize(("value", "unit"), [(72.0, "INCH"), (300.0, "INCH"), (28.3, "CENTIMETER"), (1.0, "NONE")])
def test_a_screen_resolution_is_not_taken_for_a_microscope(tmp_path, value, unit):
    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, smooth_image(), photometric="rgb", resolution=(value, value), resolutionunit=unit)
    assert read_slide(path, None).mpp is None
    with pytest.raises(DataError, match="'mpp'"):
        read_slide(path, 1.0)


def test_a_resolution_in_inches(tmp_path):
    path = tmp_path / "slide.tif"
    options = {"resolution": (25_400 / 0.25,) * 2, "resolutionunit": "INCH", "photometric": "rgb"}
    tifffile.imwrite(path, smooth_image(), **options)
    assert read_slide(path, None).mpp == pytest.approx(0.25)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_png(tmp_path, mode):
    path = tmp_path / "image.png"
    image = Image.fromarray(smooth_image()).convert(mode)
    image.save(path)
    slide = read_slide(path, None)
    assert np.array_equal(slide.pixels, np.asarray(image.convert("RGB")))
    assert (slide.mpp, slide.scale, slide.level0_size) == (None, 1.0, (HEIGHT, WIDTH))
    with pytest.raises(DataError, match=r"image\.png.*'mpp'"):
        read_slide(path, 1.0)
    assert read_slide(path, 1.0, mpp_override=0.5).pixels.shape == (300, 260, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".svs"])
@pytest.mark.parametrize("damage", ["empty", "text", "head only"])
def test_an_unreadable_file_is_one_line(tmp_path, suffix, damage):
    path = tmp_path / f"broken{suffix}"
    if suffix in (".tif", ".svs"):
        tifffile.imwrite(path, smooth_image(), photometric="rgb")
    else:
        Image.fromarray(smooth_image()).save(path)
    content = {"empty": b"", "text": b"this is no image\n" * 20, "head only": path.read_bytes()[:200]}[damage]
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_slide(path, None)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
@pytest.mark.parametrize("tile", [None, (128, 128)])
def test_a_cut_off_tiff_never_becomes_pixels(tmp_path, compression, tile):
    """A JPEG strip that is cut off would decode to grey without an error."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    path = write_pyramid(tmp_path / "whole.tif", smooth_image(), MPP, levels=1, compression=compression, tile=tile)
    whole, raw = read_slide(path, None).pixels, path.read_bytes()
    cut, refused = tmp_path / "cut.tif", 0
    for length in np.linspace(0, len(raw) - 1, 40, dtype=int):
        cut.write_bytes(raw[:length])
        try:
            assert np.array_equal(read_slide(cut, None).pixels, whole)
        except DataError:
            refused += 1
    assert refused >= 35


def test_damaged_tags_are_a_data_error_or_pixels_and_nothing_else(tmp_path):
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    path = write_pyramid(tmp_path / "slide.tif", smooth_image(96, 80), MPP, levels=2)
    raw = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        tags = [(tag.name, tag.offset) for tag in tiff.pages[0].tags]
    refused = set()
    for name, offset in tags:
        for field in (slice(0, 2), slice(2, 4), slice(4, 8), slice(8, 12)):  # number, type, count, value
            damaged = bytearray(raw)
            damaged[offset + field.start : offset + field.stop] = bytes(field.stop - field.start)
            path.write_bytes(bytes(damaged))
            try:
                assert read_slide(path, 1.0, 0.5).pixels.ndim == 3
            except DataError as error:
                assert "\n" not in str(error)
                refused.add(name)
    assert {"ImageWidth", "BitsPerSample", "SamplesPerPixel"} <= refused


def test_damaged_png_bytes_are_a_data_error_or_pixels_and_nothing_else(tmp_path):
    path, rng = tmp_path / "slide.png", random.Random(5)
    Image.fromarray(smooth_image(96, 80)).save(path)
    raw = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(24, len(raw))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            assert read_slide(path, None).pixels.ndim == 3
        except DataError as error:
            assert "\n" not in str(error)


def test_an_image_that_claims_to_be_huge_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(smooth_image(96, 80)).save(tmp_path / "slide.png")
    with pytest.raises(DataError, match=r"slide\.png"):
        read_slide(tmp_path / "slide.png", None)


def test_what_is_not_rgb_is_refused(tmp_path):
    for name, array in (("grey", np.zeros((64, 64), np.uint8)), ("deep", np.zeros((64, 64, 3), np.uint16))):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
        with pytest.raises(DataError, match="not 8-bit RGB"):
            read_slide(path, None)


def test_missing_files_and_unknown_formats(tmp_path):
    with pytest.raises(DataError, match="column 'image'"):
        read_slide(tmp_path / "none.png", None)
    (tmp_path / "slide.mrxs").write_bytes(b"x")
    with pytest.raises(DataError, match=r"unknown slide format '\.mrxs'; known: \.tif"):
        read_slide(tmp_path / "slide.mrxs", None)


def test_real_pyramids_in_two_formats_give_the_same_slide(shared_data):
    folder = shared_data / "wsi_small"
    names = ("cmu_small_region.ome.tif", "cmu_small_region_pyramid.tif")
    for name in names:
        with tifffile.TiffFile(folder / name) as tiff:
            levels = [level.shape for level in tiff.series[0].levels]
        assert levels == [(2967, 2220, 3), (1483, 1110, 3), (741, 555, 3), (370, 277, 3)]
        assert read_slide(folder / name, None).mpp == pytest.approx(0.499)
    ome, plain = (read_slide(folder / name, 2.0) for name in names)
    assert ome.pixels.shape == plain.pixels.shape == (740, 554, 3)
    assert ome.scale == plain.scale == pytest.approx(2.0 / 0.499)
    assert np.abs(ome.pixels.astype(int) - plain.pixels).mean() < 2
    full = read_slide(folder / names[0], None).pixels  # compared 8-fold coarser: the file's levels are JPEG as well
    assert np.abs(area_mean(full, 92, 69) - area_mean(ome.pixels, 92, 69)).mean() < 2


def test_a_real_slide_without_a_resolution(shared_data):
    with pytest.raises(DataError, match=r"TCGA-CR-7395.*column 'mpp'"):
        read_slide(shared_data / "wsi_small" / "TCGA-CR-7395-01A-01-TS1.svs", 1.0)
