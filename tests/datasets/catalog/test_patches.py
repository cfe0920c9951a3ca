"""LUAD-HistoSeg and BCSS-WSSS on miniatures of the published layouts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tissuebench.datasets.catalog import find_recipe
from tissuebench.datasets.catalog._patches import label_bits, original_stem, safe_stem
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.splits import official_split
from tissuebench.errors import DataError

PALETTES = {
    "luad_histoseg": (205, 51, 51, 0, 255, 0, 65, 105, 225, 255, 165, 0, 255, 255, 255),
    "bcss_wsss": (255, 0, 0, 0, 255, 0, 0, 0, 255, 153, 0, 255, 255, 255, 255),
}
FILES = {
    "luad_histoseg": {
        "train": ("1031280-2300-27920-[1 0 0 1].png", "1031280-2300-28144-[0 0 1 0].png", "387718-1-2-[1 1 1 1].png"),
        "val": ("385277-44539-46781.png",),
        "test": ("387709-10004-55944.png", "387709-10004-56168.png"),
    },
    "bcss_wsss": {
        "train": (
            "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101].png",
            "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+10[0100].png",
            "TCGA-AR-A1AQ-DX1_xmin18171_ymin38296_MPP-0.2500+0[0000].png",
        ),
        "val": ("TCGA-EW-A1PB-DX1_xmin57214_ymin25940_MPP-0.2500+0.png",),
        "test": (
            "TCGA-D8-A27F-DX1_xmin98787_ymin6725_MPP-0.2500+0.png",
            "TCGA-D8-A27F-DX1_xmin98787_ymin6725_MPP-0.2500+1.png",
        ),
    },
}
BOTH = sorted(FILES)


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 190, np.uint8)).save(path)


def write_mask(path, palette):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 5, mode="P")
    mask.putpalette(bytes(palette))
    mask.save(path)


def write_patches(root, name, train="train"):
    for file in FILES[name]["train"]:
        write_image(root / train / file)
    for part in ("val", "test"):
        for file in FILES[name][part]:
            write_image(root / part / "img" / file)
            write_mask(root / part / "mask" / file, PALETTES[name])
    return root


def refused(name, root):
    with pytest.raises(DataError) as raised:
        find_recipe(name).rows(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("train", ["train", "training"])
@pytest.mark.parametrize("below", ["", "LUAD-HistoSeg/LUAD-HistoSeg"])
@pytest.mark.parametrize("name", BOTH)
def test_train_has_tags_and_no_masks_val_and_test_the_reverse(tmp_path, name, below, train):
    write_patches(tmp_path / below, name, train)
    recipe = find_recipe(name)
    rows = recipe.rows(tmp_path)
    assert [row.split for row in rows] == ["train"] * 3 + ["val"] + ["test"] * 2
    for row in rows:
        assert row.image.is_file()
        assert (row.annotation is None) == (row.split == "train") == (row.tags is not None)
        assert original_stem(row.slide_id) == row.image.stem
        assert row.mpp == recipe.mpp
        if row.annotation is not None:
            assert row.annotation == row.image.parent.parent / "mask" / row.image.name
    split = official_split("x", ((row.patient_id, row.split) for row in rows))
    assert [len(split.patients(part)) for part in ("train", "val", "test")] == [2, 1, 1]
    assert recipe.notes is not None
    assert recipe.notes(tmp_path) == ()


def test_bits_and_palette_follow_each_class_order(tmp_path):
    write_patches(tmp_path / "luad", "luad_histoseg")
    luad = find_recipe("luad_histoseg")
    tags = {row.image.name: row.tags for row in luad.rows(tmp_path / "luad")}
    assert tags["1031280-2300-27920-[1 0 0 1].png"] == ("tumour epithelium", "tumour-associated stroma")
    assert tags["1031280-2300-28144-[0 0 1 0].png"] == ("lymphocytes",)
    write_patches(tmp_path / "bcss", "bcss_wsss")
    bcss = find_recipe("bcss_wsss")
    tags = {row.image.name: row.tags for row in bcss.rows(tmp_path / "bcss")}
    assert tags[FILES["bcss_wsss"]["train"][0]] == ("tumour", "stroma", "necrosis")
    assert tags[FILES["bcss_wsss"]["train"][2]] == ()
    for recipe, name in ((luad, "luad_histoseg"), (bcss, "bcss_wsss")):
        assert recipe.ignore_index == len(recipe.class_map) == 4
        assert [c for color in recipe.class_map.colors for c in color] == list(PALETTES[name][:12])


def test_patients_are_the_first_number_and_the_tcga_participant(tmp_path):
    for name in BOTH:
        write_patches(tmp_path / name, name)
    patients = {name: {row.patient_id for row in find_recipe(name).rows(tmp_path / name)} for name in BOTH}
    assert patients["luad_histoseg"] == {"1031280", "387718", "385277", "387709"}
    assert patients["bcss_wsss"] == {"TCGA-A1-A0SK", "TCGA-AR-A1AQ", "TCGA-EW-A1PB", "TCGA-D8-A27F"}


@pytest.mark.parametrize("name", BOTH)
def test_patches_that_leak_are_left_out_of_the_earlier_part_and_counted(tmp_path, name):
    write_patches(tmp_path, name)
    val, test = FILES[name]["val"][0], FILES[name]["test"][0]
    leaks = {"luad_histoseg": ("387709-1-1-[1 0 0 0].png", "385277-7-7-[0 1 0 0].png", "387709-9-9.png")}
    leaks["bcss_wsss"] = (
        test.replace("+0", "+77[0001]"),
        val.replace("+0", "+78[0001]"),
        test.replace("+0", "+79"),
    )
    of_test, of_val, val_of_test = leaks[name]
    write_image(tmp_path / "train" / of_test)
    write_image(tmp_path / "train" / of_val)
    write_image(tmp_path / "val" / "img" / val_of_test)
    write_mask(tmp_path / "val" / "mask" / val_of_test, PALETTES[name])
    recipe = find_recipe(name)
    rows = recipe.rows(tmp_path)
    assert sorted(row.image.name for row in rows) == sorted(file for files in FILES[name].values() for file in files)
    official_split("x", ((row.patient_id, row.split) for row in rows))
    notes = recipe.notes(tmp_path)
    assert len(notes) == 2
    assert "1 of 2 patches of val are left out: their 1 patients" in notes[0]
    assert "2 of 5 patches of train are left out: their 2 patients" in notes[1]


def test_nothing_left_to_train_on_is_an_error(tmp_path):
    write_patches(tmp_path, "luad_histoseg")
    for image in (tmp_path / "train").glob("*.png"):
        image.unlink()
    write_image(tmp_path / "train" / "387709-1-1-[1 0 0 0].png")
    assert "no patient is left for training" in refused("luad_histoseg", tmp_path)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("label", ["[100]", "[10011]", "[1 0 0 2]", "[]", "", "]1001[", "1001]"])
def test_a_label_is_four_digits_0_or_1_in_brackets(tmp_path, name, label):
    write_patches(tmp_path, name)
    stem = FILES[name]["train"][0].removesuffix(".png").split("[")[0]
    write_image(tmp_path / "train" / f"{stem.replace('2300', '9999').replace('+0', '+9')}{label}.png")
    assert "needs a label of 4 digits 0 or 1 in its name" in refused(name, tmp_path)


@pytest.mark.parametrize("name", BOTH)
def test_one_patch_under_two_labels_is_refused(tmp_path, name):
    write_patches(tmp_path, name)
    first = FILES[name]["train"][0]
    write_image(tmp_path / "train" / first.replace("1 0 0 1", "1 1 1 1").replace("1101", "1111"))
    assert "under another label; keep one" in refused(name, tmp_path)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize(("lost", "left"), [("img", "mask"), ("mask", "img")])
def test_an_image_without_a_mask_and_a_mask_without_an_image_are_named(tmp_path, part, lost, left):
    write_patches(tmp_path, "bcss_wsss")
    other = "TCGA-D8-A27F-DX1_xmin98787_ymin6725_MPP-0.2500+5.png"
    if left == "img":
        write_image(tmp_path / part / "img" / other)
    else:
        write_mask(tmp_path / part / "mask" / other, PALETTES["bcss_wsss"])
    assert str(tmp_path / part / left / other if left == "mask" else tmp_path / part / lost / other) in refused(
        "bcss_wsss", tmp_path
    )


def test_masks_of_the_other_data_set_are_told_by_their_palette(tmp_path):
    write_patches(tmp_path, "luad_histoseg")
    write_mask(tmp_path / "val" / "mask" / FILES["luad_histoseg"]["val"][0], PALETTES["bcss_wsss"])
    assert "is no mask of LUAD-HistoSeg: has the colours [255, 0, 0," in refused("luad_histoseg", tmp_path)


@pytest.mark.parametrize("content", ["rgb", "broken"])
def test_a_mask_without_a_palette_is_refused(tmp_path, content):
    write_patches(tmp_path, "luad_histoseg")
    path = tmp_path / "test" / "mask" / FILES["luad_histoseg"]["test"][0]
    if content == "rgb":
        write_image(path)
    else:
        path.write_bytes(b"not a png")
    wanted = "mode 'RGB' without a palette" if content == "rgb" else "cannot be read as an image"
    assert wanted in refused("luad_histoseg", tmp_path)


@pytest.mark.parametrize(("name", "bad"), [("luad_histoseg", "slide-a-[1001].png"), ("bcss_wsss", "a-b-c-d[1001].png")])
def test_a_name_without_a_patient_is_refused(tmp_path, name, bad):
    write_patches(tmp_path, name)
    write_image(tmp_path / "train" / bad)
    assert f"{bad}: its name does not begin with" in refused(name, tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    assert "holds no BCSS-WSSS: 'test/mask' is not found below it" in refused("bcss_wsss", tmp_path)
    write_patches(tmp_path, "bcss_wsss")
    (tmp_path / "training").mkdir()
    assert "holds both train and training" in refused("bcss_wsss", tmp_path)
    for image in (tmp_path / "train").iterdir():
        image.unlink()
    (tmp_path / "training").rmdir()
    assert f"{tmp_path / 'train'}: holds no .png" in refused("bcss_wsss", tmp_path)


NAMES = st.text("aZ09._+ []-", min_size=1, max_size=40).map(lambda text: "1" + text)


@given(NAMES, NAMES)
def test_slide_ids_are_safe_reversible_and_do_not_collide(one, other):
    safe = safe_stem(one, "x")
    assert require_safe_id("slide id", safe, "x") == safe
    assert original_stem(safe) == one
    assert (safe == safe_stem(other, "x")) == (one == other)


@pytest.mark.parametrize("stem", ["../a[1001]", "a/b", "ä", "a\nb", "", "_a"])
def test_other_characters_never_become_an_id(stem):
    with pytest.raises(DataError):
        safe_stem(stem, "x")


@given(st.lists(st.booleans(), min_size=4, max_size=4), st.sampled_from(["", " ", ", "]))
def test_bits_are_read_with_any_blanks(bits, between):
    text = between.join("1" if bit else "0" for bit in bits)
    assert label_bits(f"[x]1-[{text}]", 4, "x") == tuple(bits)
