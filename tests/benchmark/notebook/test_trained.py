"""``tissuebench.load_method``: an image in memory is segmented as the command segments its file."""

from dataclasses import replace

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image

import tissuebench
from tests.benchmark.prediction.conftest import MPP, small_slide, trained
from tissuebench.cli.predict import predict
from tissuebench.datasets.readers import open_slide
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.errors import ConfigError, DataError

__all__ = ["small_slide", "trained"]


@pytest.fixture
def image(small_slide):
    with open_slide(small_slide, None) as slide:
        return slide.region(0, 0, slide.height, slide.width)


@pytest.fixture
def method(trained):
    return tissuebench.load_method(trained.trial[:8], home=trained.home)


def by_command(trained, image, mpp, folder):
    """The labels that ``tissuebench predict`` writes for the image as a file."""
    Image.fromarray(image).save(folder / "image.png")
    options = ("--trial", trained.trial, "--home", trained.home, "--mpp", mpp, "--out", folder / "out")
    done = CliRunner().invoke(predict, [str(one) for one in (folder / "image.png", *options)])
    assert done.exception is None, done.exception
    return zarr.open_array(folder / "out" / "labels.ome.zarr" / "labels" / "prediction" / "0", mode="r")[...]


@pytest.mark.parametrize("mpp", [None, 1.0, 3.1])
def test_labels_are_those_of_the_command(trained, method, image, mpp, tmp_path):
    segmented = method.predict(image, mpp=mpp)
    expected = by_command(trained, image, MPP if mpp is None else mpp, tmp_path)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(segmented.labels, expected)
    assert segmented.image.shape == (*expected.shape, 3)


def test_the_stain_is_that_of_the_command(trained, method, shared_data, tmp_path, monkeypatch):
    with open_slide(shared_data / "wsi_small" / "CMU-1-Small-Region.svs", MPP) as slide:
        image = slide.region(200, 100, 256, 300)
    init = TileStore.__init__

    def stained(store, path):
        init(store, path)
        store.info = replace(store.info, stain="reinhard")

    monkeypatch.setattr(TileStore, "__init__", stained)
    labels = tissuebench.load_method(trained.trial, home=trained.home).predict(image).labels
    np.testing.assert_array_equal(labels, by_command(trained, image, MPP, tmp_path))
    assert (labels != method.predict(image).labels).any()


def test_probabilities_are_those_behind_the_labels(method, image):
    segmented = method.predict(image, probabilities=True)
    kept = segmented.probabilities
    assert kept.shape == (len(method.classes), *image.shape[:2]) and kept.dtype == np.float32
    np.testing.assert_array_equal(kept.argmax(0), segmented.labels)
    np.testing.assert_allclose(kept.max(0), segmented.confidence, atol=1e-6)
    np.testing.assert_allclose(kept.sum(0), 1.0, atol=1e-4)
    assert method.predict(image).probabilities is None
    assert segmented.shares.sum() == pytest.approx(1.0)
    assert list(segmented.shares.index) == list(method.classes)
    assert segmented.shares.iloc[0] == (segmented.labels == 0).mean()


def test_it_says_what_it_is(method, image):
    assert repr(method) == "supervised masks:2p draw 0 seed 0 on tiny"
    assert method.mpp == MPP
    assert repr(method.predict(image)) == "<segmented by supervised masks:2p draw 0 seed 0 on tiny: 230 x 170 px>"


def test_what_is_wrong_is_told_in_a_line(trained, method, tmp_path):
    for wrong in (
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3)),
        np.zeros((0, 5, 3), np.uint8),
    ):
        with pytest.raises(DataError, match=r"\(H, W, 3\) uint8 RGB is needed"):
            method.predict(wrong)
    with pytest.raises(DataError, match="are above 0"):
        method.predict(np.zeros((5, 5, 3), np.uint8), mpp=-1.0)
    with pytest.raises(ConfigError, match="no trial '0000'"):
        tissuebench.load_method("0000", home=trained.home)
    with pytest.raises(ConfigError, match="only finished trials can predict"):
        tissuebench.load_method(trained.waiting, home=trained.home)
    with pytest.raises(ConfigError, match="no such folder"):
        tissuebench.load_method(trained.trial, home=tmp_path / "nowhere")


@pytest.mark.parametrize("size", [(1, 1), (7, 300)])
def test_an_image_of_any_size_is_segmented(method, size):
    rng = np.random.default_rng(0)
    assert method.predict(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).labels.shape == size
