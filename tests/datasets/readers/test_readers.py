from __future__ import annotations

import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tissuebench.datasets.readers import SLIDE_SUFFIXES, Level, Slide, SlideReader, open_slide, require_brightfield
from tissuebench.datasets.readers.resample import MAX_SOURCE_PX
from tissuebench.errors import DataError

HEIGHT, WIDTH, MPP = 601, 520, 0.5


def whole(path, *options, **named):
    with open_slide(path, *options, **named) as slide:
        return slide.region(0, 0, slide.height, slide.width)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory, drawn):
    image = drawn.smooth(HEIGHT, WIDTH)
    return drawn.pyramid(tmp_path_factory.mktemp("slides") / "slide.tif", image, MPP), image


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (None, (601, 520)),
        (0.5, (601, 520)),
        (1.0, (300, 260)),
        (2.0, (150, 130)),
        (0.75, (401, 347)),
        (1.3, (231, 200)),
        (0.4, (751, 650)),
    ],
)
def test_a_pyramid_at_a_target_resolution(pyramid, drawn, target, shape):
    path, image = pyramid
    with open_slide(path, target) as slide:
        assert (slide.height, slide.width) == shape
        assert slide.level0_size == (HEIGHT, WIDTH)
        assert slide.mpp == pytest.approx(target or MPP)
        assert slide.level0_mpp == pytest.approx(MPP)
        assert slide.scale == pytest.approx((target or MPP) / MPP)
        pixels = slide.region(0, 0, *shape)
    assert pixels.shape == (*shape, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - drawn.area_mean(image, *shape)).mean() < 3


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path):
    """Levels of different brightness tell which one was read."""
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level, value in enumerate((10, 100, 200)):
            pixels = np.full((512 >> level, 512 >> level, 3), value, dtype=np.uint8)
            options = {"resolution": (2e4 / 2**level,) * 2, "resolutionunit": "CENTIMETER", "photometric": "rgb"}
            tiff.write(pixels, subfiletype=int(level > 0), tile=(128, 128), metadata=None, **options)
    read = {target: int(whole(path, target).mean()) for target in (None, 0.5, 0.9, 0.995, 1.0, 1.9, 2.0, 8.0)}
    assert read == {None: 10, 0.5: 10, 0.9: 10, 0.995: 100, 1.0: 100, 1.9: 100, 2.0: 200, 8.0: 200}
    with open_slide(path, None) as slide:
        means = {px: slide.thumbnail(px) for px in (1024, 512, 256, 200, 128, 50)}
    assert {px: (max(one.shape), int(one.mean())) for px, one in means.items()} == {
        1024: (512, 10), 512: (512, 10), 256: (256, 100), 200: (200, 100), 128: (128, 200), 50: (50, 200)
    }  # fmt: skip


def test_pixels_are_averaged_and_not_picked(tmp_path):
    fine = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(200)
    Image.fromarray(fine.astype(np.uint8)).convert("RGB").save(tmp_path / "checks.png")
    assert (whole(tmp_path / "checks.png", 1.0, 0.5) == 100).all()


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_whole_factors_are_exact_means_without_a_drift(tmp_path, drawn, factor):
    """Sides that the factor does not divide change the last pixels only."""
    image = drawn.noise(61, 47)
    Image.fromarray(image).save(tmp_path / "slide.png")
    rows, columns = 61 // factor, 47 // factor
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3)
    means = blocks.mean(axis=(1, 3))
    pixels = whole(tmp_path / "slide.png", 0.5 * factor, 0.5)
    assert pixels.shape == (max(1, round(61 / factor)), max(1, round(47 / factor)), 3)
    assert np.abs(pixels[:rows, :columns] - means).max() <= (0 if factor == 1 else 1)  # Pillow rounds once an axis


def test_a_level_one_pixel_short_is_passed_on_as_it_is(tmp_path, drawn):
    """303 px at half the resolution are 151 px in the file and round(151.5) here: no resize, no drift."""
    image = drawn.noise(303, 301)
    path = drawn.pyramid(tmp_path / "slide.tif", image, MPP, levels=2, compression=None, tile=(16, 16))
    half, pixels = drawn.halve(image), whole(path, 2 * MPP)
    assert half.shape == (151, 150, 3)
    assert pixels.shape == (152, 150, 3)
    assert np.array_equal(pixels[:151], half)
    assert np.array_equal(pixels[151], half[150])  # the row that only half exists: the last one again, not white


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, drawn):
    """Noise in a pyramid, open at resolutions of every kind of factor, with the whole of each."""
    path = tmp_path_factory.mktemp("noisy") / "slide.tif"
    drawn.pyramid(path, drawn.noise(613, 541), MPP, compression=None)
    slides = [open_slide(path, target) for target in (None, 0.5, 1.0, 1.5, 0.55, 0.75, 1.1, 1.37, 3.3, 0.41)]
    yield [(slide, slide.region(0, 0, slide.height, slide.width)) for slide in slides]
    for slide in slides:
        slide.close()


@given(data=st.data())
def test_a_region_is_the_crop_of_the_whole(noisy, drawn, data):
    slide, full = data.draw(st.sampled_from(noisy))
    y, x = data.draw(st.integers(-40, slide.height + 40)), data.draw(st.integers(-40, slide.width + 40))
    height, width = data.draw(st.integers(0, 300)), data.draw(st.integers(0, 300))
    region = slide.region(y, x, height, width)
    assert np.array_equal(region, drawn.on_canvas(full, y, x, height, width))


@given(data=st.data())
def test_blocks_of_any_size_make_up_the_whole(noisy, data):
    slide, full = data.draw(st.sampled_from(noisy[1:]))
    side_y, side_x = data.draw(st.integers(90, 700)), data.draw(st.integers(90, 700))
    rows = [
        np.concatenate([slide.region(y, x, side_y, side_x) for x in range(0, slide.width, side_x)], axis=1)
        for y in range(0, slide.height, side_y)
    ]
    assert np.array_equal(np.concatenate(rows)[: slide.height, : slide.width], full)


class Flat:
    """A reader without pixels: of one huge level, it tells what was asked of it."""

    def __init__(self, height, width, mpp=0.25):
        self.levels, self.mpp, self.metadata, self.asked = (Level(height, width, 1.0),), mpp, {}, []
        self.bounds, self.notes = None, ()

    def read(self, level, y, x, height, width):
        self.asked.append((height, width))
        return np.full((height, width, 3), (y // 4096 + x // 4096) % 200, dtype=np.uint8)

    def close(self):
        self.asked.append("closed")


@pytest.mark.parametrize("target", [None, 0.5, 0.6, 2.0, 6.1])
def test_no_region_holds_more_than_a_bounded_piece_of_the_source(target):
    reader: SlideReader = Flat(9001, 30_011)
    slide = Slide(Path("huge.svs"), reader, target)
    slide.region(0, 0, min(slide.height, 6000), min(slide.width, 6000))
    slide.thumbnail(100)
    assert len(reader.asked) > 8
    assert max(max(sides) for sides in reader.asked) <= MAX_SOURCE_PX


def test_without_a_resolution_the_file_and_the_column_are_named(tmp_path, drawn):
    path = drawn.pyramid(tmp_path / "slide.tif", drawn.smooth(), None)
    with pytest.raises(DataError, match=r"slide\.tif: the file does not say its resolution; fill .* column 'mpp'"):
        open_slide(path, 1.0)
    with open_slide(path, 1.0, mpp_override=0.5) as overridden:
        assert (overridden.height, overridden.width, overridden.scale) == (300, 260, 2.0)
    with open_slide(path, None) as as_it_is:
        assert (as_it_is.height, as_it_is.mpp, as_it_is.level0_mpp, as_it_is.scale) == (HEIGHT, None, None, 1.0)


def test_the_override_wins_over_the_file(pyramid):
    with open_slide(pyramid[0], 1.0, mpp_override=0.25) as slide:
        assert (slide.height, slide.width, slide.level0_mpp) == (150, 130, 0.25)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_a_resolution_that_is_none_is_refused(pyramid, mpp):
    for options in ((mpp, None), (1.0, mpp)):
        with pytest.raises(DataError, match=r"slide\.tif: mpp .* is not a resolution"):
            open_slide(pyramid[0], *options)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_plain_images(tmp_path, drawn, mode, suffix):
    path = tmp_path / f"image{suffix}"
    image = Image.fromarray(drawn.smooth()).convert(mode)
    image.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    with open_slide(path, None) as slide:
        assert np.array_equal(slide.region(0, 0, HEIGHT, WIDTH), np.asarray(image.convert("RGB")))
        assert (slide.mpp, slide.scale, slide.level0_size) == (None, 1.0, (HEIGHT, WIDTH))
    with pytest.raises(DataError, match=r"image\..*'mpp'"):
        open_slide(path, 1.0)


def test_what_is_transparent_is_white(tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:, 1], pixels[:, 2] = (10, 20, 30, 255), (100, 0, 200, 128)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert whole(tmp_path / "image.png", None)[0].tolist() == [[255] * 3, [10, 20, 30], [177, 127, 227], [255] * 3]


def test_a_plain_image_of_more_than_8_bits_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits"):
        open_slide(tmp_path / "deep.png", None)


def test_an_image_that_claims_to_be_huge_is_refused(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(drawn.smooth(96, 80)).save(tmp_path / "slide.png")
    with pytest.raises(DataError, match=r"slide\.png: too many pixels .* tiled TIFF"):
        open_slide(tmp_path / "slide.png", None)


def test_damaged_png_bytes_are_a_data_error_or_pixels_and_nothing_else(tmp_path, drawn):
    path, rng = tmp_path / "slide.png", random.Random(5)
    Image.fromarray(drawn.smooth(96, 80)).save(path)
    raw = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(24, len(raw))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            assert whole(path, None).ndim == 3
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("suffix", SLIDE_SUFFIXES)
@pytest.mark.parametrize("damage", ["empty", "text", "head only", "folder", "missing"])
def test_an_unreadable_file_is_one_line(tmp_path, drawn, suffix, damage):
    path = tmp_path / f"broken{suffix}"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        whole_file = tmp_path / ("whole.png" if suffix == ".zarr" else f"whole{suffix}")
        if whole_file.suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp"):
            Image.fromarray(drawn.smooth()).save(whole_file)
        else:
            tifffile.imwrite(whole_file, drawn.smooth(), photometric="rgb")
        raw = whole_file.read_bytes()
        path.write_bytes({"empty": b"", "text": b"this is no image\n" * 20, "head only": raw[:200]}[damage])
    with pytest.raises(DataError) as caught:
        open_slide(path, None)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    says = {"missing": "no such file; check the manifest's column 'image'", "folder": "folder", "empty": "0 bytes"}
    if suffix != ".zarr" or damage == "missing":
        assert says.get(damage, "") in str(caught.value)


def open_files(folder):
    """What this process holds open below a folder."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are counted in /proc")
    targets = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return [target for target in targets if folder in target.parents]


def test_a_refused_file_is_not_left_open(tmp_path):
    grey, plain = tmp_path / "grey.tif", tmp_path / "fine.tif"
    tifffile.imwrite(grey, np.zeros((64, 64), np.uint8), photometric="minisblack")
    tifffile.imwrite(plain, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    for path, target in ((grey, None), (plain, 1.0)):
        with pytest.raises(DataError):
            open_slide(path, target)
    with open_slide(plain, None):
        assert open_files(tmp_path) == [plain]
    assert open_files(tmp_path) == []


def test_unknown_formats_and_reader_names_are_told_with_the_known_ones(tmp_path, pyramid):
    (tmp_path / "slide.xyz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"unknown slide format '\.xyz': .*known: .*\.mrxs.*\.svs.*\.zarr"):
        open_slide(tmp_path / "slide.xyz", None)
    with pytest.raises(DataError, match="unknown reader 'tiffile': did you mean 'tifffile'"):
        open_slide(pyramid[0], None, reader="tiffile")


def test_a_named_reader_wins_over_the_suffix(tmp_path, pyramid):
    disguised = tmp_path / "slide.dat"
    disguised.write_bytes(pyramid[0].read_bytes())
    for name in ("tifffile", "openslide"):
        assert np.array_equal(whole(disguised, 1.0, reader=name), whole(pyramid[0], 1.0, reader=name))
    with pytest.raises(DataError, match=r"slide\.tif: cannot be read as an image"):
        open_slide(pyramid[0], None, reader="plain")
    with pytest.raises(DataError, match=r"slide\.tif: is a file, an OME-Zarr image is a folder"):
        open_slide(pyramid[0], None, reader="ome-zarr")


def test_without_openslide_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "slide.mrxs").write_bytes(b"x")
    with pytest.raises(DataError, match=r"slide\.mrxs: .*pip install 'tissuebench\[openslide\]'"):
        open_slide(tmp_path / "slide.mrxs", None)


def test_openslide_gives_the_same_pixels_whatever_region_they_are_asked_for_in(tmp_path, drawn):
    """Its levels of an odd factor are interpolated from corners in whole pixels of level 0."""
    path = drawn.pyramid(tmp_path / "slide.tif", drawn.noise(1203, 1101), MPP, compression="deflate")
    with open_slide(path, 2 * MPP, reader="openslide") as slide:
        full = slide.region(0, 0, slide.height, slide.width)
        for y, x, height, width in ((1, 1, 30, 40), (500, 401, 80, 100), (-7, 511, 900, 90)):
            assert np.array_equal(slide.region(y, x, height, width), drawn.on_canvas(full, y, x, height, width))


def test_an_open_slide_does_not_go_to_another_process(pyramid):
    with open_slide(pyramid[0], 1.0) as slide, pytest.raises(TypeError, match=r"slide\.tif: .*open it there"):
        pickle.dumps(slide)


def test_brightfield_is_told_from_a_dark_background():
    rng = np.random.default_rng(1)
    stained = rng.integers((120, 40, 100), (240, 160, 220), (64, 64, 3)).astype(np.uint8)
    require_brightfield(stained, "stained")
    with pytest.raises(DataError, match=r"dark\.ndpi: looks like fluorescence.*leave it out"):
        require_brightfield(255 - np.maximum(stained, 200), "dark.ndpi")
    framed = np.zeros((64, 64, 3), dtype=np.uint8)
    framed[:40] = stained[:40]
    require_brightfield(framed, "a slide in a black frame")
