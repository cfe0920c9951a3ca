"""Writing a store: nothing incomplete appears at the final path, and an interrupted write is resumed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.datasets.store.toy_stores import CLASSES, INFO, slide, written
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.errors import DataError


def test_what_stands_there_is_never_overwritten(small):
    with pytest.raises(DataError, match="immutable"):
        StoreWriter(small.path, INFO, CLASSES)


def test_a_store_that_was_never_sealed(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    writer.add("S1", "P1", (), *slide(1))
    assert not writer.path.exists()  # before the seal nothing stands at the final path
    (tmp_path / "store.zarr.partial").rename(writer.path)
    with pytest.raises(DataError, match="never sealed"):
        TileStore(writer.path)


@pytest.mark.parametrize("slide_id", ["a/b", "../x", "..", ".", "", "a b", "-x", "a\n", "a\\b"])
def test_a_slide_id_that_is_no_file_name(tmp_path, slide_id):
    writer = StoreWriter(tmp_path / "deep" / "store.zarr", INFO, CLASSES)
    with pytest.raises(DataError, match="cannot be a file name"):
        writer.add(slide_id, "P1", (), *slide(1))
    assert not [path for path in tmp_path.rglob("*") if path.name in ("x", "b", "a")]


def test_a_slide_id_that_appears_twice(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    writer.add("S1", "P1", (), *slide(1))
    with pytest.raises(DataError, match="'S1' appears twice"):
        writer.add("S1", "P2", (), *slide(2))


def test_no_tissue_is_an_error(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    image, labels, tissue = slide(1)
    with pytest.raises(DataError, match="'S1': no tissue found"):
        writer.add("S1", "P1", (), image, labels, np.zeros_like(tissue))
    assert writer.finished() == {}
    assert not list((writer.folder / "slides").glob("*S1*"))


def test_discard_leaves_nothing(tmp_path):
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    writer.add("S1", "P1", (), *slide(1))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_new_writer_goes_on_where_an_interrupted_one_was(tmp_path):
    StoreWriter(tmp_path / "store.zarr", INFO, CLASSES).add("S1", "P1", (), *slide(1))
    writer = StoreWriter(tmp_path / "store.zarr", INFO, CLASSES)
    assert list(writer.finished()) == ["S1"]
    writer.add("S2", "P2", (), *slide(2))
    store = writer.seal({"S1": Case("P1"), "S2": Case("P2")})
    at_once = StoreWriter(tmp_path / "other.zarr", INFO, CLASSES)
    at_once.add("S1", "P1", (), *slide(1))
    at_once.add("S2", "P2", (), *slide(2))
    assert store.content_hash == at_once.seal().content_hash
    assert not (tmp_path / "store.zarr.partial").exists()


def test_slides_that_do_not_belong_are_not_sealed_in(tmp_path):
    StoreWriter(tmp_path / "store.zarr", INFO, CLASSES).add("S1", "P1", (), *slide(1))
    store = written(tmp_path / "store.zarr", {"S2": ((), slide(2))})
    assert [path.name for path in (store.path / "slides").iterdir() if path.is_dir()] == ["S2"]
    assert not list(store.path.rglob("S1*"))


@pytest.mark.parametrize("changed", ["codec", "settings", "tile_px"])
def test_other_settings_begin_anew(tmp_path, changed):
    StoreWriter(tmp_path / "store.zarr", INFO, CLASSES).add("S1", "P1", (), *slide(1))
    info = replace(INFO, tile_px=64) if changed == "tile_px" else INFO
    codec, settings = ("zstd" if changed == "codec" else "lz4"), ("new" if changed == "settings" else None)
    assert StoreWriter(tmp_path / "store.zarr", info, CLASSES, codec, settings).finished() == {}


def test_a_sealed_store_is_opened_again_on_demand(small):
    before = small.content_hash
    writer = StoreWriter(small.path, INFO, CLASSES, update=True)
    assert not small.path.exists()
    writer.add("S3", "P3", (), *slide(3))
    assert list(writer.seal({name: Case(f"P{name}") for name in ("S1", "S2", "S3")}).slides) == ["S1", "S2", "S3"]
    writer = StoreWriter(small.path, INFO, CLASSES, update=True)
    assert writer.seal({"S1": Case("PS1", ("A",)), "S2": Case("PS2")}).content_hash == before
