"""A tile size as part of a dataset's name: a store of its own from the same files, with the same patients."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tissuebench.datasets.catalog import find_recipe, recipe_names
from tissuebench.datasets.ingest.ingest import dataset_folder, ensure_store, source_folder
from tissuebench.datasets.store.tiling import grid
from tissuebench.errors import ConfigError


def made(name, home, root=None):
    return ensure_store(find_recipe(name, root), home, root, lambda *_: None)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "folder"])
def test_every_recipe_has_any_tile_size(name):
    plain, sized = find_recipe(name), find_recipe(f"{name}@96")
    assert (sized.name, sized.tile_px, sized.plain_name) == (f"{name}@96", 96, name)
    assert (plain.name, plain.plain_name) == (name, name)
    assert (sized.class_map, sized.mpp, sized.version) == (plain.class_map, plain.mpp, plain.version)
    own = find_recipe(f"{name}@{plain.tile_px}")
    assert own.tile_px == plain.tile_px


@pytest.mark.parametrize("size", ["", "0", "31", "-64", "64.0", "6x", "064", " 64", "64@64", "٦٤", "1e3", "9" * 5000])
def test_what_is_no_tile_size_is_one_line(size):
    with pytest.raises(ConfigError, match=r"\Adataset 'ebhi@[^\n]*: '@' is followed by [^\n]* as in 'ebhi@64'\Z"):
        find_recipe(f"ebhi@{size}")


def test_a_mistyped_name_is_told_without_its_tile_size():
    with pytest.raises(ConfigError, match="unknown dataset 'ebih': did you mean 'ebhi'"):
        find_recipe("ebih@56")


def test_a_store_of_another_tile_size_stands_beside_with_the_same_patients(tiny_data, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(tiny_data.home, home)
    sized = made("folder@48", home, tiny_data.root)
    assert sized.store.path == home / "data" / "tiny@48" / "store.zarr"
    assert (sized.store.info.dataset, sized.store.info.tile_px) == ("tiny@48", 48)
    assert sized.store.content_hash != tiny_data.store.content_hash
    assert sized.split == tiny_data.split
    assert sized.split.sha256 == tiny_data.split.sha256
    assert [(tile.y, tile.x) for tile in grid(sized.store.slides["slide00"], 48)] == [
        (0, 0),
        (0, 48),
        (16, 0),
        (16, 48),
    ]
    for slide_id, slide in sized.store.slides.items():
        masks = [sized.store.withheld.mask(slide_id, tile.y, tile.x, 48, 48) for tile in grid(slide, 48)]
        counts = [np.bincount(mask.ravel(), minlength=4)[:4] for mask in masks]
        assert np.array_equal(sized.store.withheld.tile_class_pixels(slide_id), counts)
    assert made("folder", home, tiny_data.root).store.content_hash == tiny_data.store.content_hash  # untouched


def test_patients_are_dealt_alike_where_the_source_does_not_say(tiny_source, tmp_path):
    root = shutil.copytree(tiny_source, tmp_path / "source")
    lines = [line.rsplit(",", 1)[0] for line in (root / "manifest.csv").read_text().splitlines()]
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    plain, sized = (made(name, tmp_path / "home", root) for name in ("folder", "folder@64"))
    assert plain.split == sized.split
    assert plain.split.name == "tiny-random"


def test_drawn_slides_are_those_of_the_plain_name_in_the_same_split(tmp_path):
    from tissuebench.datasets.synthetic import SyntheticConfig, write_synthetic

    raw = source_folder(tmp_path, find_recipe("synthetic@64"))
    assert raw == dataset_folder(tmp_path, "synthetic") / "raw"
    write_synthetic(raw, SyntheticConfig(n_train=2, n_val=1, n_test=1, size_px=256), lambda *_: None)
    plain, sized = made("synthetic", tmp_path), made("synthetic@64", tmp_path)
    assert sized.split == plain.split
    assert (plain.store.info.tile_px, sized.store.info.tile_px) == (128, 64)
    assert sized.store.info.source_sha256 != plain.store.info.source_sha256
    for slide_id in plain.store.slides:
        whole = (slide_id, 0, 0, 128, 128)
        assert np.array_equal(plain.store.image(*whole), sized.store.image(*whole))
