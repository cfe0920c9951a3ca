from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from tissuebench.datasets.catalog import find_recipe, recipe_names
from tissuebench.datasets.ingest import ensure_store
from tissuebench.datasets.manifest import read_manifest
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import ConfigError, DataError

CLASSES = ClassMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), {"A": ("a",), "B": ("b",)})
HEADER = "slide_id,patient_id,image,annotation,diagnosis,split,mpp\n"


@pytest.fixture
def source(tiny_source, tmp_path):
    return shutil.copytree(tiny_source, tmp_path / "source")


@pytest.fixture
def ingest(tmp_path):
    def run(root, home=tmp_path / "home", recipe=None):
        return ensure_store(recipe or find_recipe("folder", root), home, root, lambda *_: None)

    return run


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def parsed(tmp_path):
    def write_and_read(text):
        path = tmp_path / "manifest.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_manifest(path, CLASSES)

    return write_and_read


def test_a_manifest_row(parsed, tmp_path):
    (row,) = parsed(HEADER + " S1 ,P1,images/1.png,1.geojson,A; B,train,0.25\n")
    assert (row.slide_id, row.patient_id, row.diagnosis, row.split, row.mpp) == ("S1", "P1", ("A", "B"), "train", 0.25)
    assert (row.image, row.annotation) == (tmp_path / "images/1.png", tmp_path / "1.geojson")


def test_optional_columns_may_be_absent_or_empty(parsed):
    (bare,) = parsed("annotation,image,patient_id,slide_id\n1.png,2.png,P1,S1\n")
    (empty,) = parsed(HEADER + "S1,P1,2.png,1.png,,,\n")
    assert bare == empty
    assert (bare.diagnosis, bare.split, bare.mpp) == ((), "", None)


def test_a_manifest_as_spreadsheets_write_it(parsed):
    """A byte order mark, and CRLF at the ends of lines."""
    text = "\ufeff" + HEADER.replace("\n", "\r\n") + 'S1,P1,"a, b.png",1.png,A,train,\r\n'
    (row,) = parsed(text)
    assert (row.slide_id, row.image.name) == ("S1", "a, b.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "has no rows"),
        ("", "column 'slide_id' is missing"),
        (HEADER.replace("patient_id,", "") + "S1,1,1,A,train,\n", "column 'patient_id' is missing; needed: slide_id"),
        (HEADER.replace("split", "splitt"), "unknown column 'splitt': did you mean 'split'"),
        (HEADER + "S1,,1.png,2.png,A,train,\n", "row 2: patient_id is empty"),
        (HEADER + "S1,P1\n", "row 2: image is empty"),
        (HEADER + "S1,P1,1.png,2.png,AA,train,\n", "row 2: unknown diagnosis 'AA'"),
        (HEADER + "S1,P1,1.png,2.png,A,training,\n", "unknown split 'training': did you mean 'train'"),
        (HEADER + "../S1,P1,1.png,2.png,A,train,\n", r"slide_id '\.\./S1' cannot be a file name"),
        (HEADER + "S1,P/1,1.png,2.png,A,train,\n", "patient_id 'P/1' cannot be a file name"),
        (HEADER + "S1,P1,1.png,2.png,A,train,fine\n", "row 2: mpp 'fine' is not a number"),
        (HEADER + "S1,P1,1.png,2.png,A,train,0\n", "row 2: mpp '0' is not a resolution"),
        (HEADER + "S1,P1,1.png,2.png,A,train,-0.5\n", "mpp '-0.5' is not a resolution"),
        (HEADER + "S1,P1,1.png,2.png,A,train,nan\n", "mpp 'nan' is not a resolution"),
        (HEADER + "S1,P1,1.png,2.png,A,train,inf\n", "mpp 'inf' is not a resolution"),
        (HEADER.encode("utf-16"), "cannot be read as UTF-8"),
        (HEADER.encode() + b"S\xe4,P1,1.png,2.png,A,train,\n", "cannot be read as UTF-8"),
        (HEADER + "S1," + "x" * 200_000 + ",1.png,2.png,A,train,\n", "cannot be read as CSV"),
    ],
)
def test_a_broken_manifest_names_file_and_row(parsed, text, message):
    with pytest.raises(DataError, match=message) as caught:
        parsed(text)
    assert "manifest.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_ingested(tiny_data):
    assert len(tiny_data.store.slides) == 12
    assert {part: len(tiny_data.split.patients(part)) for part in ("train", "val", "test")} == {
        "train": 7, "val": 2, "test": 3,
    }  # fmt: skip
    assert tiny_data.store.info.dataset == "tiny"
    for slide_id in tiny_data.store.slides:
        pixels = np.asarray(Image.open(tiny_data.root / f"{slide_id}.png"))
        assert np.array_equal(tiny_data.store.image(slide_id, 0, 0, 64, 96), pixels.transpose(2, 0, 1))
        mask = np.asarray(Image.open(tiny_data.root / f"{slide_id}_mask.png"))
        assert np.array_equal(tiny_data.store.withheld.mask(slide_id, 0, 0, 64, 96), mask)
    tiny_data.store.verify()


def test_the_same_source_gives_the_same_content(source, ingest, tiny_data):
    store, split = ingest(source)
    assert (store.content_hash, split.sha256) == (tiny_data.store.content_hash, tiny_data.split.sha256)
    again, _ = ingest(source)
    assert again.content_hash == store.content_hash
    assert again.path == store.path


def test_a_manifest_that_changed_is_not_served_from_the_old_store(source, ingest):
    ingest(source)
    rewrite(source / "manifest.csv", "case11", "case12")
    with pytest.raises(DataError, match="made from other files"):
        ingest(source)


def test_without_a_split_column_patients_are_dealt(source, ingest):
    lines = [line.rsplit(",", 1)[0] for line in (source / "manifest.csv").read_text().splitlines()]
    (source / "manifest.csv").write_text("\n".join(lines) + "\n")
    store, split = ingest(source)
    assert split.name == "tiny-random"
    assert sum(len(split.patients(part)) for part in ("train", "val", "test")) == len(store.slides)


def test_a_split_column_that_is_filled_in_part(source, ingest, tmp_path):
    rewrite(source / "manifest.csv", "A,val", "A,")
    with pytest.raises(DataError, match=r"slide 'slide\d+' has no split but others have"):
        ingest(source)
    assert not list(tmp_path.glob("home/data/*/*"))


@pytest.mark.parametrize("damage", ["image", "mask", "twice"])
def test_a_failure_half_way_leaves_nothing(source, ingest, tmp_path, damage):
    if damage == "twice":
        rewrite(source / "manifest.csv", "slide11,case11", "slide10,case11")
    else:
        name = {"image": "slide09.png", "mask": "slide09_mask.png"}[damage]
        (source / name).write_bytes(b"")
    with pytest.raises(DataError, match="slide10' appears twice" if damage == "twice" else "slide09"):
        ingest(source)
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file() or path.name.startswith("store")] == []


def test_an_interruption_between_store_and_split_is_made_good(source, ingest):
    store, split = ingest(source)
    (store.path.parent / "split.json").unlink()
    assert ingest(source)[1] == split


def test_a_generated_dataset_is_made_good_too(source, tmp_path):
    """Killed between sealing and writing the split; there is no data root to be named for it."""

    def generate(folder, progress):
        shutil.copytree(source, folder)
        progress(1, 1)

    recipe = replace(find_recipe("folder", source), generate=generate)
    store, split = ensure_store(recipe, tmp_path / "home", None, lambda *_: None)
    assert ensure_store(recipe, tmp_path / "home", None, lambda *_: None)[1] == split
    (store.path.parent / "split.json").unlink()
    assert ensure_store(recipe, tmp_path / "home", None, lambda *_: None)[1] == split
    assert not (store.path.parent / "raw.partial").exists()


def test_a_split_whose_patients_are_not_in_the_store(source, ingest):
    from tissuebench.datasets.splits import Split

    store, split = ingest(source)
    Split(split.name, {**split.parts, "val": ("stranger",)}).write(store.path.parent / "split.json")
    with pytest.raises(DataError, match="patient 'stranger' is not in the store"):
        ingest(source)


def test_geojson_annotations_at_a_target_resolution(source, ingest):
    """Level 0 is 0.5 um: at 1.0 the slide has half the size, and the polygons follow."""
    described = yaml.safe_load((source / "dataset.yaml").read_text())
    (source / "dataset.yaml").write_text(yaml.safe_dump({**described, "mpp": 1.0}, sort_keys=False))
    lines = (source / "manifest.csv").read_text().splitlines()
    ring = "[[0,0],[96,0],[96,64],[0,64],[0,0]]"
    (source / "slide00.geojson").write_text(
        '{"type":"Feature","geometry":{"type":"Polygon","coordinates":[' + ring + "]},"
        '"properties":{"classification":{"name":"stroma"}}}'
    )
    lines[1] = lines[1].replace("slide00_mask.png", "slide00.geojson")
    (source / "manifest.csv").write_text("\n".join([lines[0] + ",mpp", *(f"{line},0.5" for line in lines[1:])]) + "\n")
    store, _ = ingest(source)
    info = store.slides["slide00"]
    assert (info.height, info.width) == (32, 48)
    assert (store.withheld.mask("slide00", 0, 0, 32, 48) == 1).all()
    mask = np.asarray(Image.open(source / "slide01_mask.png"))
    assert np.array_equal(store.withheld.mask("slide01", 0, 0, 32, 48), mask[::2, ::2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 32}, "key 'tile'"),
        ({"mpp": -1}, "key 'mpp'"),
        ({"mpp": 0}, "key 'mpp'"),
        ({"mpp": float("nan")}, "key 'mpp'"),
        ({"tile_px": 0}, "key 'tile_px'"),
        ({"classes": {"a": [1, 2, 300], "b": [1, 2, 3]}}, "key 'classes.a.2'"),
        ({"classes": {"a": [1, 2], "b": [1, 2, 3]}}, "key 'classes.a"),
        ({"classes": {"a": [1, 2, 3]}}, "class names must be 2"),
        ({"diagnoses": {"A": ["tumour_z"]}}, "tumour_z"),
        ({"costs": {"mask_minutes": 3}}, "key 'costs.mask_minutes'"),
        ({"name": "../up"}, "cannot be a file name"),
    ],
)
def test_a_broken_dataset_file_names_the_key(source, change, message):
    described = yaml.safe_load((source / "dataset.yaml").read_text())
    (source / "dataset.yaml").write_text(yaml.safe_dump({**described, **change}, sort_keys=False))
    with pytest.raises(DataError, match=message) as caught:
        find_recipe("folder", source)
    assert "dataset.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_costs_of_a_dataset_are_its_own(source, ingest):
    with (source / "dataset.yaml").open("a") as handle:
        handle.write("costs: {mask_minutes_per_tile: 7.5}\n")
    store, _ = ingest(source)
    assert store.info.costs.mask_minutes_per_tile == 7.5


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "!!python/object/apply:os.getcwd []"])
def test_a_dataset_file_that_is_no_mapping(source, content):
    (source / "dataset.yaml").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.yaml") as caught:
        find_recipe("folder", source)
    assert "\n" not in str(caught.value)


def test_recipes_by_name(tmp_path):
    assert {"ebhi", "folder", "synthetic"} <= set(recipe_names())
    with pytest.raises(ConfigError, match="unknown dataset 'syntetic': did you mean 'synthetic'"):
        find_recipe("syntetic")
    with pytest.raises(DataError, match="DATA_ROOT"):
        find_recipe("folder")
    with pytest.raises(DataError, match="say where its files are"):
        ensure_store(find_recipe("ebhi"), tmp_path, None, lambda *_: None)


def test_the_real_ebhi_subset_has_disjoint_cases(shared_data):
    recipe = find_recipe("ebhi", shared_data / "ebhi_seg")
    rows = recipe.rows(shared_data / "ebhi_seg")
    assert len(rows) == 658
    assert {row.diagnosis for row in rows} == {(name,) for name in recipe.class_map.diagnoses}
    from tissuebench.datasets.splits import official_split

    split = official_split("ebhi", ((row.patient_id, row.split) for row in rows))
    assert [len(split.patients(part)) for part in ("train", "val", "test")] == [148, 43, 64]


def test_a_mask_that_changed_is_not_served_from_the_old_store(tiny_source, tmp_path):
    root = tmp_path / "source"
    shutil.copytree(tiny_source, root)
    home = tmp_path / "home"
    ensure_store(find_recipe("folder", root), home, root, lambda *_: None)
    ensure_store(find_recipe("folder", root), home, root, lambda *_: None)
    mask = root / "slide00_mask.png"
    Image.fromarray(np.zeros((64, 96), dtype=np.uint8), mode="L").save(mask)
    with pytest.raises(DataError, match="made from other files"):
        ensure_store(find_recipe("folder", root), home, root, lambda *_: None)
