"""``tissuebench.open_dataset``: slides as a table, tiles as pictures."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import tissuebench
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.errors import ConfigError, DataError
from tissuebench.notebook.dataset import Dataset


@pytest.fixture(scope="module")
def dataset(tiny_data):
    return tissuebench.open_dataset("folder", data_root=tiny_data.root, home=tiny_data.home)


def decoded(data):
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture).astype(int)


def test_slides_are_a_table(dataset, tiny_data):
    slides = dataset.slides.set_index("slide_id")
    assert sorted(slides.index) == sorted(tiny_data.store.slides)
    for name, row in slides.iterrows():
        known = tiny_data.store.slides[name]
        assert (row.patient_id, row.height, row.width) == (known.patient_id, known.height, known.width)
        assert row.patient_id in tiny_data.split.patients(row.part)
        counts = tuple(row[f"pixels/{one}"] for one in dataset.classes)
        assert counts == tiny_data.store.withheld.class_pixels(name)
        assert row.diagnosis == ";".join(tiny_data.store.withheld.diagnosis(name))
    assert slides.level0_mpp.isna().all() and slides.level0_mpp.dtype == "float64"
    every = Dataset.slides.__doc__
    assert not [name for name in dataset.slides if f"`{name.partition('/')[0]}" not in every]


def test_a_tile_has_its_pixels_labels_and_picture(dataset, tiny_data):
    slide = next(iter(tiny_data.store.slides))
    tile = dataset.tile(slide, 5, 9, size=40)
    np.testing.assert_array_equal(tile.image, tiny_data.store.image(slide, 5, 9, 40, 40).transpose(1, 2, 0))
    np.testing.assert_array_equal(tile.labels, tiny_data.store.withheld.mask(slide, 5, 9, 40, 40))
    picture = decoded(tile._repr_jpeg_())
    assert picture.shape == (40, 88, 3)
    assert np.abs(picture[:, :40] - tile.image).mean() < 12  # a JPEG
    assert np.abs(picture[:, 48:] - tile.overlay.pixels).mean() < 12
    colours = np.array(tiny_data.store.class_map.colors)[tile.labels]
    np.testing.assert_allclose(tile.overlay.pixels, 0.6 * tile.image + 0.4 * colours, atol=1.01)
    assert repr(tile) == f"<{slide}, y 5, x 9: 40 x 40 px>"
    assert dataset.tile(slide, 0, 0).labels.shape == (32, 32)
    with pytest.raises(DataError, match="no slide 'S99'"):
        dataset.tile("S99", 0, 0)


def test_an_overlay_is_written_to_a_file(dataset, tmp_path):
    overlay = dataset.tile(next(iter(dataset.store.slides)), 0, 0).overlay
    overlay.save(tmp_path / "tile.png")
    np.testing.assert_array_equal(decoded((tmp_path / "tile.png").read_bytes()), overlay.pixels)


def test_sample_tiles_show_their_class(dataset):
    gallery = dataset.tiles(per_class=2)
    assert set(gallery.rows) <= set(dataset.classes) and all(len(row) == 2 for row in gallery.rows.values())
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', gallery._repr_html_())
    assert len(pictures) == 2 * len(gallery.rows)
    assert {decoded(base64.b64decode(one)).shape for one in pictures} == {(32, 32, 3)}


def test_a_slide_is_a_small_picture(dataset):
    slide = next(iter(dataset.store.slides))
    assert decoded(dataset.slide(slide)._repr_jpeg_()).shape[2] == 3
    for wrong in ("S99", "../../dataset"):
        with pytest.raises(DataError, match="no picture of slide"):
            dataset.slide(wrong)


def test_it_says_what_it_is(dataset):
    assert re.fullmatch(
        r"tiny: 12 slides of 12 patients, \d classes, tiles of 32 px at an unknown resolution", repr(dataset)
    )
    assert all(name in dataset._repr_html_() for name in dataset.classes)


def test_names_from_data_do_not_get_out_of_their_place(tmp_path):
    evil = "<script>alert(1)</script>"
    writer = StoreWriter(
        tmp_path / "store.zarr",
        StoreInfo(evil, 1.0, 32, LabelCosts()),
        ClassMap((evil, "\"'><img src=x>"), ((1, 2, 3), (4, 5, 6))),
    )
    labels = np.repeat(np.array([[0], [1]], np.uint8), 32, axis=0).repeat(64, axis=1)
    writer.add("S1", "P1", (), np.full((64, 64, 3), 100, np.uint8), labels, np.ones((4, 4), np.uint8))
    shown = Dataset(writer.seal(), Split("s", {"train": ("P1",)}))
    for page in (shown._repr_html_(), shown.tiles()._repr_html_()):
        assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page


def test_the_home_is_given_or_that_of_the_command_line(tiny_data, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(tiny_data.home, home)
    monkeypatch.setenv("TISSUEBENCH_HOME", str(home))
    assert tissuebench.open_dataset("tiny").store.path == home / "data" / "tiny" / "store.zarr"
    with pytest.raises(ConfigError, match="unknown dataset 'tny': did you mean 'tiny'"):
        tissuebench.open_dataset("tny")
