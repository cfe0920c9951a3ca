"""The content hash of a store: it covers every change, and verification detects them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import zarr

from tests.datasets.store.toy_stores import CLASSES, INFO, slide, written
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.verify import verify
from tissuebench.errors import DataError


def test_content_hash_does_not_depend_on_the_order_of_slides(tmp_path):
    slides = {"S1": (("A",), slide(1)), "S2": ((), slide(2)), "S3": (("A", "B"), slide(3))}
    one = written(tmp_path / "one.zarr", slides)
    other = written(tmp_path / "other.zarr", dict(reversed(slides.items())))
    assert one.content_hash == other.content_hash
    assert list(one.slides) == list(other.slides) == ["S1", "S2", "S3"]


@pytest.mark.parametrize("change", ["pixel", "label", "diagnosis", "slide id", "size", "mpp", "class", "allowed"])
def test_content_hash_moves_with_any_change(tmp_path, change):
    image, labels, tissue = slide(1)
    before = written(tmp_path / "before.zarr", {"S1": (("A",), (image, labels, tissue))}).content_hash
    diagnosis, slide_id, info, classes = ("A",), "S1", INFO, CLASSES
    image, labels = image.copy(), labels.copy()
    if change == "pixel":
        image[5, 6, 1] ^= 1
    elif change == "label":
        labels[5, 6] = 0 if labels[5, 6] else 1
    elif change == "diagnosis":
        diagnosis = ("B",)
    elif change == "slide id":
        slide_id = "S2"
    elif change == "size":  # the same bytes in another shape
        image, labels = image.reshape(50, 40, 3), labels.reshape(50, 40)
    elif change == "mpp":
        info = replace(INFO, mpp=0.25)
    elif change == "class":
        classes = replace(CLASSES, names=("glass", "a", "c"), diagnoses={"A": ("a",), "B": ("c",)})
    elif change == "allowed":
        classes = replace(CLASSES, diagnoses={"A": ("b",), "B": ("a",)})
    after = written(tmp_path / "after.zarr", {slide_id: (diagnosis, (image, labels, tissue))}, info, classes)
    assert after.content_hash != before


def test_an_edited_manifest_is_refused(small):
    path = small.path / "manifest.json"
    document = json.loads(path.read_text())
    document["content"]["slides"][0]["diagnosis"] = ["B"]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="edited by hand"):
        TileStore(small.path)


def test_another_format_version_is_refused(small):
    from tissuebench.datasets.documents import read_hashed_json, write_hashed_json

    path = small.path / "manifest.json"
    write_hashed_json(path, {**read_hashed_json(path)[0], "format": 99})
    with pytest.raises(DataError, match="format 99"):
        TileStore(small.path)


@pytest.mark.parametrize(
    ("name", "said"), [("0", "image"), ("labels/annotation/0", "label"), ("labels/tissue/0", "tissue")]
)
def test_verify_finds_a_changed_pixel(small, name, said):
    verify(small)
    array = zarr.open_array(small.path / "slides" / "S2" / name, mode="r+")
    y, x = (min(3, array.shape[-2] - 1), min(2, array.shape[-1] - 1))
    array[..., y, x] = array[..., y, x] ^ 1
    with pytest.raises(DataError, match=rf"slide S2 has changed.*\({said}\)"):
        verify(TileStore(small.path))


@pytest.mark.parametrize("name", ["tiles/tissue.npy", "tiles/class_pixels.npy"])
def test_verify_finds_a_changed_table(small, name):
    path = small.path / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DataError, match=r"slide S2 has changed.*\(tiles\)"):
        verify(small)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        verify(TileStore(small.path))
