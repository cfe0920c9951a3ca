from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from tissuebench.datasets.catalog import find_recipe, recipe_names
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.ingest.ingest import IngestOptions, ensure_store
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.verify import verify
from tissuebench.errors import ConfigError, DataError


@pytest.fixture
def source(tiny_source, tmp_path):
    return shutil.copytree(tiny_source, tmp_path / "source")


@pytest.fixture
def ingest(tmp_path):
    def run(root, home=tmp_path / "home", recipe=None, **options):
        return ensured(recipe or find_recipe("folder", root), home, root, lambda *_: None, IngestOptions(**options))

    return run


def ensured(*arguments):
    made = ensure_store(*arguments)
    return made.store, made.split


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


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
    verify(tiny_data.store)


def test_the_same_source_gives_the_same_content(source, ingest, tiny_data):
    store, split = ingest(source)
    assert (store.content_hash, split.sha256) == (tiny_data.store.content_hash, tiny_data.split.sha256)
    again, _ = ingest(source)
    assert again.content_hash == store.content_hash
    assert again.path == store.path


def test_a_manifest_that_changed_is_not_served_from_the_old_store(source, ingest):
    ingest(source)
    rewrite(source / "manifest.csv", "case11", "case12")
    with pytest.raises(DataError, match="made from other files; 'tissuebench data ingest tiny --update' takes in"):
        ingest(source)


def test_an_update_takes_in_what_changed_and_nothing_else(source, ingest, tiny_data):
    store, _ = ingest(source)
    before = {path: path.stat().st_mtime_ns for path in store.path.glob("slides/*/0/zarr.json")}
    Image.new("RGB", (96, 64), (90, 40, 80)).save(source / "slide03.png")
    (source / "slide05.png").unlink()
    lines = (source / "manifest.csv").read_text().splitlines()
    kept = [line for line in lines if "slide05" not in line]
    (source / "manifest.csv").write_text("\n".join([*kept, lines[6].replace("05", "99")]) + "\n")
    for name in ("", "_mask"):
        with Image.open(source / f"slide07{name}.png") as image:
            ImageOps.flip(image).save(source / f"slide99{name}.png")  # the same picture would be a copy
    (source / "slide05_mask.png").unlink()
    updated, split = ingest(source, update=True)
    assert "slide99" in updated.slides
    assert "slide05" not in updated.slides
    assert {"case99", "case05"} & set(split.patients("train") + split.patients("test")) == {"case99"}
    assert (updated.image("slide03", 0, 0, 64, 96) == np.array((90, 40, 80))[:, None, None]).all()
    after = {path: path.stat().st_mtime_ns for path in updated.path.glob("slides/*/0/zarr.json")}
    same = {path.parent.parent.name for path in after if before.get(path) == after[path]}
    assert same == set(updated.slides) - {"slide03", "slide99"}
    verify(updated)
    afresh, _ = ingest(source, home=updated.path.parent / "elsewhere")
    assert afresh.content_hash == updated.content_hash


def test_an_update_needs_the_files(source, ingest, tmp_path):
    ingest(source)
    recipe = find_recipe("folder", source)
    source.rename(source.with_name("elsewhere"))
    with pytest.raises(DataError, match="--update of dataset 'tiny' needs its files"):
        ensure_store(recipe, tmp_path / "home", None, lambda *_: None, IngestOptions(update=True))


def test_a_changed_diagnosis_converts_no_slide_again(source, ingest):
    store, _ = ingest(source)
    before = {path: path.stat().st_mtime_ns for path in store.path.glob("slides/*/0/zarr.json")}
    rewrite(source / "manifest.csv", ",A,", ",A;B,")
    updated, _ = ingest(source, update=True)
    assert updated.content_hash != store.content_hash
    assert updated.withheld.diagnosis("slide00") == ("A", "B")
    assert {path: path.stat().st_mtime_ns for path in updated.path.glob("slides/*/0/zarr.json")} == before


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes_makes_the_same_store(source, ingest, tiny_data, workers):
    store, split = ingest(source, workers=workers)
    assert (store.content_hash, split.sha256) == (tiny_data.store.content_hash, tiny_data.split.sha256)


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_any_codec_makes_the_same_content(source, ingest, tiny_data, codec):
    assert ingest(source, codec=codec)[0].content_hash == tiny_data.store.content_hash


def test_a_slide_that_nobody_annotated(source, ingest):
    """Its labels say nothing; its diagnosis still does."""
    rewrite(source / "manifest.csv", "slide00_mask.png", "")
    (source / "slide00_mask.png").unlink()
    store, _ = ingest(source)
    assert (store.withheld.mask("slide00", 0, 0, 64, 96) == 255).all()
    assert store.withheld.class_pixels("slide00") == (0, 0, 0, 0)
    assert store.withheld.diagnosis("slide00") == ("A",)
    assert not store.withheld.tile_class_pixels("slide00").any()


def test_tags_of_the_source_are_kept(source, ingest):
    lines = (source / "manifest.csv").read_text().splitlines()
    lines = [lines[0] + ",tags", lines[1] + ",glass;stroma", *(line + "," for line in lines[2:])]
    (source / "manifest.csv").write_text("\n".join(lines) + "\n")
    store, _ = ingest(source)
    assert store.withheld.tags("slide00") == ("glass", "stroma")
    assert store.withheld.tags("slide01") is None


def test_progress_counts_slides_up(source, tmp_path):
    told = []
    ensure_store(find_recipe("folder", source), tmp_path / "home", source, lambda *step: told.append(step))
    assert [done for what, done, total in told if what == "ingesting tiny"] == list(range(13))
    assert {total for _, _, total in told} == {12}


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
def test_stains_are_brought_to_one_reference(tmp_path, stain):
    """Two slides of the same tissue, one stained darker: alike afterwards, each labelled as before."""
    from tissuebench.datasets.synthetic import SyntheticConfig, write_synthetic

    root = tmp_path / "source"
    write_synthetic(root, SyntheticConfig(n_train=2, n_val=0, n_test=0, size_px=512), lambda *_: None)
    recipe = find_recipe("synthetic")
    plain = ensure_store(recipe, tmp_path / "plain", root, lambda *_: None).store
    options = IngestOptions(stain=stain)
    even = ensure_store(recipe, tmp_path / "even", root, lambda *_: None, options).store
    assert plain.content_hash != even.content_hash
    assert (plain.info.stain, even.info.stain) == ("none", stain)
    for slide_id in plain.slides:
        whole = (slide_id, 0, 0, 256, 256)
        assert np.array_equal(plain.withheld.mask(*whole), even.withheld.mask(*whole))

    def spread(store):
        tissue = [store.image(name, 0, 0, 256, 256).reshape(3, -1) for name in store.slides]
        means = [image[:, image.mean(axis=0) < 210].mean(axis=1) for image in tissue]
        return np.abs(means[0] - means[1]).sum()

    assert spread(even) < spread(plain)


def test_without_a_split_column_patients_are_dealt(source, ingest):
    lines = [line.rsplit(",", 1)[0] for line in (source / "manifest.csv").read_text().splitlines()]
    (source / "manifest.csv").write_text("\n".join(lines) + "\n")
    store, split = ingest(source)
    assert split.name == "tiny-random"
    assert sum(len(split.patients(part)) for part in ("train", "val", "test")) == len(store.slides)


def test_every_part_gets_annotated_patients_if_half_of_the_slides_are(source, ingest):
    """An annotation without an annotated pixel is none."""
    header, *rows = [line.split(",")[:-1] for line in (source / "manifest.csv").read_text().splitlines()]
    for row in rows[1::2]:
        row[3] = ""
    Image.fromarray(np.full((64, 96), 255, np.uint8)).save(source / "slide00_mask.png")
    (source / "manifest.csv").write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    _, split = ingest(source)
    annotated = {row[1] for row in rows[2::2]}
    assert [len(annotated & set(split.patients(part))) for part in ("train", "val", "test")] == [3, 1, 1]


def test_a_split_column_that_is_filled_in_part(source, ingest, tmp_path):
    rewrite(source / "manifest.csv", "A,val", "A,")
    with pytest.raises(DataError, match=r"slide 'slide\d+' has no split but others do"):
        ingest(source)
    assert not list(tmp_path.glob("home/data/*/*"))


def test_an_interruption_between_store_and_split_is_made_good(source, ingest):
    store, split = ingest(source)
    (store.path.parent / "split.json").unlink()
    assert ingest(source)[1] == split


def test_a_generated_dataset_is_made_good_too(source, tmp_path):
    """Killed between sealing and writing the split; there is no data root to be named for it."""

    def generate(folder, progress):
        shutil.copytree(source, folder, dirs_exist_ok=True)
        progress(1, 1)

    recipe = replace(find_recipe("folder", source), generate=generate)
    store, split = ensured(recipe, tmp_path / "home", None, lambda *_: None)
    assert ensured(recipe, tmp_path / "home", None, lambda *_: None)[1] == split
    (store.path.parent / "split.json").unlink()
    assert ensured(recipe, tmp_path / "home", None, lambda *_: None)[1] == split
    assert not list(store.path.parent.glob("*.partial"))


def test_of_two_at_once_one_draws_and_the_other_finds_the_files(source, tmp_path):
    drawn = []

    def generate(folder, progress):
        drawn.append(folder)
        time.sleep(0.5)
        shutil.copytree(source, folder, dirs_exist_ok=True)

    recipe = replace(find_recipe("folder", source), generate=generate)
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda _: ensured(recipe, tmp_path / "home", None, lambda *_: None), range(2)))
    assert len(drawn) == 1
    assert made[0][0].content_hash == made[1][0].content_hash


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
        ({"min_tag_share": 1.5}, "key 'min_tag_share': .* less than or equal to 1"),
        ({"min_tag_share": -0.1}, "key 'min_tag_share'"),
        ({"min_tag_share": float("nan")}, "key 'min_tag_share'"),
        ({"white_background": {"grey_above": 300}}, "key 'white_background': .*grey_above is 300"),
        ({"white_background": {"min_px": 2.5}}, "key 'white_background.min_px'"),
        ({"white_background": {"below": 3}}, "key 'white_background.below'"),
        ({"white_background": {"label": "glas"}}, "key 'white_background.label': .*did you mean 'glass'"),
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


def test_what_is_said_of_tags_and_white_is_in_the_store_and_what_is_default_is_not(source, ingest, tiny_data):
    described = yaml.safe_load((source / "dataset.yaml").read_text())

    def rewritten(**more):
        (source / "dataset.yaml").write_text(yaml.safe_dump({**described, **more}, sort_keys=False))
        return find_recipe("folder", source)

    rewritten(min_tag_share=0.01)
    store, _ = ingest(source)
    assert store.content_hash == tiny_data.store.content_hash
    assert (store.info.min_tag_share, store.info.white) == (0.01, None)
    converted = {path: path.stat().st_mtime_ns for path in (store.path / "records").iterdir()}
    rewritten(min_tag_share=0.25, white_background={"min_px": 9, "label": "glass"})
    with pytest.raises(DataError, match="was made from other files"):
        ingest(source)
    other, _ = ingest(source, update=True)
    assert (other.info.min_tag_share, other.info.white) == (0.25, WhiteBackground(200, 9, "glass"))
    assert other.content_hash != store.content_hash
    assert {path: path.stat().st_mtime_ns for path in (other.path / "records").iterdir()} == converted
    assert TileStore(other.path).info == other.info
    rewritten()
    again, _ = ingest(source, update=True)
    assert again.content_hash == store.content_hash


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
    with pytest.raises(DataError, match="give the folder of its files"):
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
