"""Label images: palettes, grey, colours; whole and by tiles; at the size of the slide and below."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (200, 100, 150), (90, 20, 120)))
IDS = np.array([[0, 1, 2, 255], [2, 2, 1, 0], [1, 0, 255, 2]], dtype=np.uint8)
RGB_IDS = np.where(IDS == 255, 0, IDS)
PALETTE = np.array(CLASSES.colors, dtype=np.uint8)


def read(path, level0=(3, 4), size=None, scale=1.0, classes=CLASSES, **options):
    size = level0 if size is None else size
    return open_annotation(path, classes, Frame(level0, size, scale), **options).raster(0, 0, *size)


def save_palette(path, ids, palette):
    image = Image.fromarray(ids, mode="P")
    image.putpalette(bytes(np.array(palette, dtype=np.uint8).ravel()))
    image.save(path)


def save_tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack", **options)


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp"])
def test_a_palette_gives_ids_and_not_colours(tmp_path, name):
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:3] = (2, 2, 2), (0, 0, 0), (1, 1, 1)  # colours that would pass for other ids
    save_palette(tmp_path / name, IDS, palette)
    assert np.array_equal(read(tmp_path / name), IDS)


def test_a_short_palette_is_stored_with_few_bits_and_still_gives_ids(tmp_path):
    path, ids = tmp_path / "mask.png", np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    save_palette(path, ids, [(9, 9, 9), (200, 0, 0), (0, 0, 200)])
    assert np.array_equal(read(path, (2, 3)), ids)


def test_a_palette_in_a_tiff_gives_ids_and_not_colours(tmp_path):
    path, colours = tmp_path / "mask.tif", np.zeros((3, 256), dtype=np.uint16)
    colours[:, :3] = 512, 0, 256
    tifffile.imwrite(path, IDS, photometric="palette", colormap=colours)
    assert np.array_equal(read(path), IDS)


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp", "mask.tif"])
def test_grey_ids(tmp_path, name):
    Image.fromarray(IDS).save(tmp_path / name)
    labels = read(tmp_path / name)
    assert np.array_equal(labels, IDS)
    assert labels.dtype == np.uint8


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp", "mask.tif"])
def test_colours_of_the_class_map(tmp_path, name):
    Image.fromarray(PALETTE[RGB_IDS]).save(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), RGB_IDS)


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("place", [(0, 0), (37, 50), (5, 33)])
def test_a_colour_that_no_class_has_is_shown_with_its_place(tmp_path, tile, place):
    pixels = PALETTE[np.zeros((38, 51), dtype=np.uint8)]
    pixels[place] = (240, 240, 241)
    names = ["mask.png"] if tile is None else []
    for name in names:
        Image.fromarray(pixels).save(tmp_path / name)
    save_tiff(tmp_path / "mask.tif", pixels, tile=tile, compression="zlib")
    for name in [*names, "mask.tif"]:
        with pytest.raises(DataError, match=rf"\(240, 240, 241\) at x {place[1]}, y {place[0]} is not one") as caught:
            read(tmp_path / name, (38, 51))
        assert "\n" not in str(caught.value)


def test_two_classes_of_one_colour_are_in_the_way_of_colours_alone(tmp_path):
    classes = ClassMap(("a", "b", "c"), ((9, 9, 9), (1, 1, 1), (9, 9, 9)))
    Image.fromarray(np.full((3, 4, 3), 9, dtype=np.uint8)).save(tmp_path / "rgb.png")
    Image.fromarray(RGB_IDS).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"rgb\.png: is RGB, but classes 'a' and 'c' have the same colour"):
        read(tmp_path / "rgb.png", classes=classes)
    assert np.array_equal(read(tmp_path / "grey.png", classes=classes), RGB_IDS)


def test_another_size_is_reached_without_new_ids(tmp_path):
    path = tmp_path / "mask.png"
    ids = np.zeros((8, 8), dtype=np.uint8)
    ids[:, 3:] = 2
    Image.fromarray(ids).save(path)
    small = read(path, (8, 8), (4, 4), 2.0)
    assert set(np.unique(small)) == {0, 2}  # a mean of 0 and 2 would be a 1
    assert np.array_equal(small[:, [0, 2, 3]], ids[::2, [0, 4, 6]])


@given(
    data=st.data(),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    factor=st.integers(1, 5),
)
def test_a_whole_factor_gives_what_nearest_neighbour_gives(tmp_path_factory, data, height, width, factor):
    """PIL's nearest neighbour takes the pixel that holds the centre of the target's pixel."""
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    seed = data.draw(st.integers(0, 2**31))
    ids = np.random.default_rng(seed).integers(0, 3, size=(height * factor, width * factor), dtype=np.uint8)
    Image.fromarray(ids).save(path)
    resized = np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
    assert np.array_equal(read(path, ids.shape, (height, width), float(factor)), resized)


@pytest.mark.parametrize(
    ("mask_size", "labelled"),
    [((11, 14), (41, 54)), ((10, 13), (40, 52)), ((11, 13), (41, 52)), ((10, 14), (40, 54))],
)
def test_a_downsample_of_the_slide_is_enlarged_and_says_nothing_beyond(tmp_path, mask_size, labelled):
    """A slide of 41 x 54 px at a quarter, rounded up or down on either axis."""
    path, ids = tmp_path / "mask.png", np.arange(np.prod(mask_size)).reshape(mask_size).astype(np.uint8) % 3
    Image.fromarray(ids).save(path)
    labels = read(path, (41, 54))
    full = np.full((41, 54), 255, dtype=np.uint8)
    full[: labelled[0], : labelled[1]] = ids.repeat(4, axis=0).repeat(4, axis=1)[:41, :54]
    assert np.array_equal(labels, full)


def test_a_mask_so_small_that_it_fits_two_downsamples_is_refused_unless_one_is_exact(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask of 4 x 3 px may be its image at 1/3 or at 1/4"):
        read(tmp_path / "mask.png", (10, 13))
    assert np.array_equal(read(tmp_path / "mask.png", (9, 12)), IDS.repeat(3, axis=0).repeat(3, axis=1))


def test_a_mask_of_the_size_of_the_raster_is_taken_as_it_is(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "mask.png")
    assert np.array_equal(read(tmp_path / "mask.png", (10, 13), (3, 4), 10 / 3), IDS)


def test_a_raster_that_reaches_over_the_slide_by_rounding_repeats_the_last_pixel(tmp_path):
    ids = np.array([[0, 1, 2, 0, 1]] * 5, dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "mask.png")
    assert np.array_equal(read(tmp_path / "mask.png", (5, 5), (2, 2), 3.4), ids[[1, 4]][:, [1, 4]])


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGBA", "mask.png"), ("RGBA", "mask.tif"), ("LA", "mask.png"), ("F", "mask.tif"), ("CMYK", "mask.tif")],
)
def test_another_mode_is_refused(tmp_path, mode, name):
    Image.new(mode, (4, 3)).save(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}.*palette or grey") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("level0", [(4, 3), (3, 5), (6, 12), (30, 60)])
def test_a_mask_of_another_size_than_its_image(tmp_path, level0):
    Image.fromarray(IDS).save(tmp_path / "mask.png")
    message = rf"mask\.png: mask is 4 x 3 px but its image is {level0[1]} x {level0[0]} px"
    with pytest.raises(DataError, match=message):
        read(tmp_path / "mask.png", level0)


@pytest.mark.parametrize("value", [3, 254])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_value_outside_the_class_map_is_found_in_its_block(tmp_path, value, tile):
    path, ids = tmp_path / "mask.tif", np.zeros((40, 40), dtype=np.uint8)
    ids[20, 30] = value
    save_tiff(path, ids, tile=tile)
    source = open_annotation(path, CLASSES, Frame((40, 40), (40, 40), 1.0))
    assert (source.raster(0, 0, 20, 40) == 0).all()
    with pytest.raises(DataError, match=rf"mask value {value} is outside the class map \(0 to 2, 255"):
        source.raster(20, 0, 20, 40)


@pytest.mark.parametrize("content", [b"", b"text", None])
@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_an_unreadable_mask_is_one_line(tmp_path, content, name):
    path = tmp_path / name
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(DataError, match=rf"{name}: cannot be read") as caught:
        read(path, (64, 64))
    assert "\n" not in str(caught.value)


def test_a_tiff_cut_off_in_a_tile_fails_where_that_tile_is_needed(tmp_path):
    path = tmp_path / "mask.tif"
    ids = np.random.default_rng(3).integers(0, 3, size=(64, 64), dtype=np.uint8)
    save_tiff(path, ids, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        cut = tif.pages.first.dataoffsets[3] + 5
    path.write_bytes(path.read_bytes()[:cut])
    source = open_annotation(path, CLASSES, Frame((64, 64), (64, 64), 1.0))
    assert np.array_equal(source.raster(0, 0, 32, 64), ids[:32])
    with pytest.raises(DataError, match=r"mask\.tif: cannot be read") as caught:
        source.raster(0, 0, 64, 64)
    assert "\n" not in str(caught.value)


def test_a_mask_compressed_with_loss_is_refused(tmp_path):
    save_tiff(tmp_path / "mask.tif", np.zeros((64, 64), dtype=np.uint8), tile=(32, 32), compression="jpeg")
    with pytest.raises(DataError, match="compressed with JPEG, which changes values"):
        read(tmp_path / "mask.tif", (64, 64))


@given(
    data=st.data(),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    scale=st.sampled_from([1.0, 1.7, 2.0, 5.3]),
    rgb=st.booleans(),
)
def test_tiles_give_what_the_whole_image_gives(tmp_path_factory, data, height, width, scale, rgb):
    folder = tmp_path_factory.mktemp("mask")
    seed = data.draw(st.integers(0, 2**31))
    ids = np.random.default_rng(seed).integers(0, 3, size=(height, width), dtype=np.uint8)
    pixels = PALETTE[ids] if rgb else ids
    save_tiff(folder / "tiled.tif", pixels, tile=(16, 32), compression="zlib")
    Image.fromarray(pixels).save(folder / "whole.png")
    size = max(1, round(height / scale)), max(1, round(width / scale))
    frame = Frame((height, width), size, scale)
    tiled, whole = (open_annotation(folder / name, CLASSES, frame) for name in ("tiled.tif", "whole.png"))
    y, x = data.draw(st.integers(-5, size[0])), data.draw(st.integers(-5, size[1]))
    block = tiled.raster(y, x, 20, 25)
    assert np.array_equal(block, whole.raster(y, x, 20, 25))
    padded = np.full((size[0] + 60, size[1] + 60), 255, dtype=np.uint8)
    padded[30:-30, 30:-30] = whole.raster(0, 0, *size)
    assert np.array_equal(block, padded[30 + y :][:20, 30 + x :][:, :25])


def test_only_the_tiles_of_a_block_are_decoded(tmp_path):
    """Tiles that nobody asks for may be anything: here they are not even there."""
    path = tmp_path / "mask.tif"
    ids = np.random.default_rng(5).integers(0, 3, size=(96, 96), dtype=np.uint8)
    save_tiff(path, ids, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offsets, lengths = tif.pages.first.dataoffsets, tif.pages.first.databytecounts
    wanted = 2 * 6 + 3
    content = bytearray(path.read_bytes())
    for index, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        if index != wanted:
            content[offset : offset + length] = b"\xff" * length
    path.write_bytes(content)
    source = open_annotation(path, CLASSES, Frame((96, 96), (96, 96), 1.0))
    assert np.array_equal(source.raster(32, 48, 16, 16), ids[32:48, 48:64])
    with pytest.raises(DataError, match="cannot be read"):
        source.raster(31, 48, 16, 16)


def test_a_tile_that_was_never_written_is_zero(tmp_path):
    path = tmp_path / "mask.tif"
    ids = np.ones((32, 32), dtype=np.uint8)
    ids[:16, :16] = 0
    save_tiff(path, ids, tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+") as tif:
        counts = list(tif.pages.first.databytecounts)
        tif.pages.first.tags["TileByteCounts"].overwrite([0, *counts[1:]])
    assert np.array_equal(read(path, (32, 32)), ids)


def test_instances_are_one_class_and_a_value_may_mean_not_annotated(tmp_path):
    values = np.array([[0, 1, 7, 255]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert read(tmp_path / "mask.png", (1, 4), instance_class="tumour").tolist() == [[0, 2, 2, 2]]
    with_gap = read(tmp_path / "mask.png", (1, 4), instance_class="tumour", ignore_index=7)
    assert with_gap.tolist() == [[0, 2, 255, 2]]
    with pytest.raises(DataError, match="mask value 7"):
        read(tmp_path / "mask.png", (1, 4))
    assert read(tmp_path / "mask.png", (1, 4), ignore_index=7).tolist() == [[0, 1, 255, 255]]
    Image.fromarray(PALETTE[RGB_IDS]).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match=r"rgb\.png.*palette or grey"):
        read(tmp_path / "rgb.png", instance_class="tumour")
