"""``tissuebench data``: list, fetch, ingest, inspect, budgets, as a user types them."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image

from tissuebench.cli.main import cli
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.errors import ConfigError, DataError


def invoke(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def given(bench):
    """The options that name the tiny data and its home."""
    return ("folder", "--data-root", bench.data_root, "--home", bench.home)


def test_list_names_every_recipe(tmp_path):
    lines = invoke("data", "list", "--home", tmp_path).stdout.splitlines()
    names = {line.split()[0] for line in lines}
    assert names >= {"bcss_wsss", "ebhi", "folder", "glas", "glas_official", "luad_histoseg", "monuseg", "synthetic"}


def test_another_tile_size_is_a_dataset_beside(bench, given):
    _, *where = given
    assert "data/tiny@48/store.zarr: 12 slides" in invoke("data", "ingest", "folder@48", *where).stdout
    assert "tiny@48" in invoke("data", "inspect", "folder@48", *where).stdout
    assert (bench.home / "data" / "tiny@48" / "inspect" / "index.html").is_file()
    (row,) = json.loads(
        invoke("data", "budgets", "folder@48", *where, "--budget", "tags:2p", "--replicate", 0, "--json").stdout
    )
    assert row["tiles"] == 2 * 4  # of 96 x 64 px: two rows and two columns
    assert row["min_tag_share"] == 0.01
    for size in ("4x", "16"):
        result = CliRunner().invoke(cli, ["data", "ingest", f"folder@{size}"])
        assert isinstance(result.exception, ConfigError)
    assert "NAME@56" in invoke("data", "list", "--help").stdout


def test_inspect_writes_a_page(bench, given):
    printed = invoke("data", "inspect", *given, "--verify").stdout
    page = bench.home / "data" / "tiny" / "inspect" / "index.html"
    assert str(page) in printed.replace("\n", "")
    text = page.read_text()
    assert all(slide_id in text for slide_id in bench.data.store.slides)
    assert "tumour_a" in text
    assert "http" not in text.replace("http-equiv", "")


def test_inspect_verifies_on_demand(bench, given):
    array = zarr.open_array(bench.home / "data" / "tiny" / "store.zarr" / "slides" / "slide04" / "0", mode="r+")
    array[0, 3, 4] = 255 - array[0, 3, 4]
    invoke("data", "inspect", *given)
    result = CliRunner().invoke(cli, [str(part) for part in ("data", "inspect", *given, "--verify")])
    assert isinstance(result.exception, DataError)
    assert "slide04 has changed since it was sealed (image)" in str(result.exception)


def test_budgets_show_what_they_buy(bench, given):
    rows = json.loads(invoke("data", "budgets", *given, "--budget", "masks:2p,minutes:30", "--json").stdout)
    assert [(row["budget"], row["replicate"]) for row in rows] == [
        (budget, draw) for budget in ("masks:2p", "minutes:30") for draw in range(3)
    ]
    for row in rows:
        assert row["tiles"] == {"masks:2p": 12, "minutes:30": 15}[row["budget"]]
        assert row["minutes"] == 2.0 * row["tiles"]
    printed = invoke("data", "budgets", *given, "--budget", "minutes:30", "--method", "complementary").stdout
    assert "are assumed" in printed
    assert "minutes:30" in printed


def write_luad(folder):
    """A miniature of the published layout: three tagged patches, one with a mask in val and in test."""
    rng = np.random.default_rng(0)

    def image(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(90, 200, (224, 224, 3), dtype=np.uint8)).save(path)

    for name in ("1031280-1-1-[1 0 0 1].png", "1031280-1-2-[0 0 1 0].png", "387718-1-2-[1 1 1 1].png"):
        image(folder / "train" / name)
    for part, stem in (("val", "385277-44539-46781"), ("test", "387709-10004-55944")):
        image(folder / part / "img" / f"{stem}.png")
        (folder / part / "mask").mkdir()
        mask = Image.fromarray((np.arange(224 * 224) % 5).astype(np.uint8).reshape(224, 224), mode="P")
        mask.putpalette(bytes((205, 51, 51, 0, 255, 0, 65, 105, 225, 255, 165, 0, 255, 255, 255)))
        mask.save(folder / part / "mask" / f"{stem}.png")


def test_from_an_archive_put_there_by_hand_to_a_store(tmp_path):
    """As its users go: the command says which file to put where, then goes on, and the tags are those of the names."""
    home = tmp_path / "home"
    refused = CliRunner().invoke(cli, ["data", "fetch", "luad_histoseg", "--home", str(home)])
    assert isinstance(refused.exception, DataError)
    message = str(refused.exception)
    assert "downloaded manually" in message
    archive = home / "data" / "luad_histoseg" / "raw" / message.split("raw/")[1].split("'")[0]
    write_luad(tmp_path / "LUAD-HistoSeg")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted((tmp_path / "LUAD-HistoSeg").rglob("*.png")):
            packed.write(path, path.relative_to(tmp_path))
    shutil.rmtree(tmp_path / "LUAD-HistoSeg")
    assert "complete" in invoke("data", "fetch", "luad_histoseg", "--home", home).stdout
    assert "5 slides, 0 left out" in invoke("data", "ingest", "luad_histoseg", "--home", home).stdout
    store = TileStore(home / "data" / "luad_histoseg" / "store.zarr")
    tagged = {slide_id: store.withheld.tags(slide_id) for slide_id in store.slides}
    names = store.class_map.names
    assert sorted(tags for tags in tagged.values() if tags is not None) == sorted(
        [(names[0], names[3]), (names[2],), names]
    )
    masks = [store.withheld.mask(slide_id, 0, 0, 224, 224) for slide_id, tags in tagged.items() if tags is None]
    assert len(masks) == 2
    for mask in masks:
        assert np.array_equal(np.unique(mask), [0, 1, 2, 3, 255])  # index 4 is not annotated
    rows = invoke("data", "budgets", "luad_histoseg", "--home", home, "--budget", "tags:all", "--json").stdout
    assert {row["patients"] for row in json.loads(rows)} == {2}
