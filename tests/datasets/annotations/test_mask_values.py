"""Values of masks: class ids, 0 and 255, the dataset's table, and masks of 1 and 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from tissuebench.datasets.annotations import Frame, open_annotation
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("glass", "stroma", "tumour"), ((240, 240, 240), (200, 100, 150), (90, 20, 120)))
BINARY = np.array([[0, 255, 0], [255, 255, 0]], dtype=np.uint8)


def save(path, values):
    Image.fromarray(values).save(path)
    return path


def save_tiled(path, values):
    tifffile.imwrite(path, values, photometric="minisblack", tile=(16, 16), compression="zlib")
    return path


def finished(path, **options):
    """The whole raster, with the notes at its end."""
    with Image.open(path) as image:
        size = image.size[::-1]
    source = open_annotation(path, CLASSES, Frame(size, size, 1.0), **options)
    return source.raster(0, 0, *size), source.finish()


@pytest.mark.parametrize("write", [save, save_tiled])
def test_a_mask_of_0_and_255_is_refused_with_both_readings(tmp_path, write):
    path = write(tmp_path / "mask.tif", BINARY)
    with pytest.raises(DataError) as caught:
        finished(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: holds only the values 0 and 255, and 255 means 'not annotated' here")
    for line in ("{0: null, 255: tumour}", "{0: glass, 255: tumour}", "{0: glass, 255: null}"):
        assert line in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["grey", "palette", "rgb"])
def test_the_table_says_what_values_are(tmp_path, kind):
    path = tmp_path / "mask.png"
    image = Image.fromarray(BINARY)
    if kind == "palette":
        image = Image.fromarray(BINARY, mode="P")
        image.putpalette(bytes(768))
    image.convert("RGB" if kind == "rgb" else image.mode).save(path)
    raster, notes = finished(path, mask_values={0: None, 255: "tumour"})
    assert np.array_equal(raster, np.where(BINARY == 255, 2, 255))
    raster, _ = finished(path, mask_values={0: "glass", 255: None})
    assert np.array_equal(raster, np.where(BINARY == 255, 255, 0))
    assert notes == ()


def test_a_grey_mask_saved_as_rgb_in_tiles_is_read_by_the_table(tmp_path):
    values = np.zeros((40, 40), dtype=np.uint8)
    values[20:, 30:] = 255
    pixels = np.repeat(values[..., None], 3, axis=2)
    tifffile.imwrite(tmp_path / "mask.tif", pixels, photometric="rgb", tile=(16, 16), compression="zlib")
    assert np.array_equal(
        finished(tmp_path / "mask.tif", mask_values={0: None, 255: "stroma"})[0], np.where(values, 1, 255)
    )
    with pytest.raises(DataError, match=r"colour \(0, 0, 0\) .*black and white, say in dataset\.yaml .*mask_values: "):
        finished(tmp_path / "mask.tif")
    pixels[33, 2] = 0, 0, 1
    tifffile.imwrite(tmp_path / "mask.tif", pixels, photometric="rgb", tile=(16, 16), compression="zlib")
    with pytest.raises(DataError, match=r"colour \(0, 0, 1\) at x 2, y 33 is not grey"):
        finished(tmp_path / "mask.tif", mask_values={0: None, 255: "stroma"})


def test_a_value_that_the_table_lacks_is_named(tmp_path):
    path = save(tmp_path / "mask.png", np.array([[0, 128, 255]], dtype=np.uint8))
    with pytest.raises(DataError, match=r"mask value 128 is not among the mask_values of dataset\.yaml \(0, 255\)"):
        finished(path, mask_values={0: None, 255: "tumour"})
    with pytest.raises(
        DataError, match=r"mask value 128 is outside the class map .*mask_values: \{0: null, 128: tumour\}"
    ):
        finished(path)


def test_0_and_255_beside_other_values_are_class_ids(tmp_path):
    values = np.array([[0, 2, 255]], dtype=np.uint8)
    assert finished(save(tmp_path / "mask.png", values)) == (pytest.approx(values), ())


def test_values_of_the_whole_mask_decide_and_not_those_of_a_block(tmp_path):
    values = np.zeros((4, 4), dtype=np.uint8)
    values[:2, :2], values[3, 3] = 255, 1
    path = save(tmp_path / "mask.png", values)
    source = open_annotation(path, CLASSES, Frame((4, 4), (4, 4), 1.0))
    for y, x in ((0, 0), (0, 2), (2, 0), (2, 2)):
        source.raster(y, x, 2, 2)
    assert len(source.finish()) == 1  # of 0, 1 and 255


def test_instances_of_0_and_255_are_instances(tmp_path):
    raster, notes = finished(save(tmp_path / "mask.png", BINARY), instance_class="tumour")
    assert np.array_equal(raster, np.where(BINARY, 2, 0))
    assert notes == ()


@pytest.mark.parametrize("name", ["mask.png", "mask.bmp", "mask.tif", "tiled.tif"])
def test_a_mask_of_1_bit_has_the_values_0_and_1(tmp_path, name):
    path = tmp_path / name
    bits = np.zeros((20, 24), dtype=bool)
    bits[3:9, 2:19] = True
    if name == "tiled.tif":
        tifffile.imwrite(path, bits, photometric="minisblack", tile=(16, 16))
    else:
        Image.fromarray(bits).save(path)
    raster, (note,) = finished(path)
    assert np.array_equal(raster, bits)
    assert note.startswith("the mask holds only 0 ('glass') and 1 ('stroma') of 3 classes")
    assert note.endswith("mask_values: {0: null, 1: tumour}")
    assert np.array_equal(finished(path, mask_values={0: None, 1: "tumour"})[0], np.where(bits, 2, 255))


@pytest.mark.parametrize("name", ["mask.png", "mask.tif", "tiled.tif"])
def test_a_mask_of_16_bits_with_small_values_is_read(tmp_path, name):
    path, values = tmp_path / name, np.array([[0, 1, 2], [2, 255, 0]], dtype=np.uint16)
    (save_tiled if name == "tiled.tif" else save)(path, values)
    assert np.array_equal(finished(path)[0], values)
    values[1, 1] = 256
    (save_tiled if name == "tiled.tif" else save)(path, values)
    with pytest.raises(DataError, match="has the value 256; a label image has values from 0 to 255"):
        finished(path)


def test_a_mask_that_says_nothing_but_not_annotated_is_noted(tmp_path):
    path = save(tmp_path / "mask.png", np.full((2, 3), 255, dtype=np.uint8))
    raster, (note,) = finished(path)
    assert (raster == 255).all()
    assert "holds only 255, 'not annotated'; if 255 is a class" in note
    assert "mask_values: {0: null, 255: tumour}" in note


def test_a_palette_of_two_of_many_classes_is_meant(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette(bytes(768))
    image.save(tmp_path / "mask.png")
    assert finished(tmp_path / "mask.png")[1] == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_with_an_orientation_is_turned_as_viewers_turn_it_or_refused(tmp_path, orientation):
    values = np.array([[0, 1, 2], [2, 2, 1]], dtype=np.uint8)
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[274] = orientation
    image.save(tmp_path / "mask.png", exif=exif)
    ways = {2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T, 6: np.rot90(values, -1)}
    shown = {1: values, **ways, 7: values[::-1, ::-1].T, 8: np.rot90(values)}[orientation]
    source = open_annotation(tmp_path / "mask.png", CLASSES, Frame(shown.shape, shown.shape, 1.0))
    assert np.array_equal(source.raster(0, 0, *shown.shape), shown)
    assert len(source.notes) == (orientation > 1)
    tifffile.imwrite(
        tmp_path / "mask.tif", values, photometric="minisblack", extratags=[(274, 3, 1, orientation, True)]
    )
    frame = Frame(values.shape, values.shape, 1.0)
    if orientation == 1:
        open_annotation(tmp_path / "mask.tif", CLASSES, frame)
    else:
        with pytest.raises(DataError, match=rf"stored turned \(TIFF tag Orientation {orientation}\)"):
            open_annotation(tmp_path / "mask.tif", CLASSES, frame)
