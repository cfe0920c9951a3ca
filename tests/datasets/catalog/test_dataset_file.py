"""``dataset.yaml`` as people write it: what is accepted, and one line for what is not."""

from __future__ import annotations

import pytest

from tissuebench.datasets.catalog import find_recipe
from tissuebench.errors import DataError

HEAD = "name: mine\nmpp: 1.0\ntile_px: 64\n"
CLASSES = "classes:\n  glass: [230, 230, 230]\n  stroma: [240, 150, 180]\n  tumour: [120, 40, 140]\n"
WHOLE = HEAD + CLASSES
NAMES = ("glass", "stroma", "tumour")


@pytest.fixture
def described(tmp_path):
    def write_and_read(text):
        (tmp_path / "dataset.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return find_recipe("folder", tmp_path)

    return write_and_read


@pytest.mark.parametrize(
    "text",
    [
        WHOLE.encode("utf-8-sig"),
        WHOLE.encode("utf-16"),
        WHOLE.replace("\n", "\r\n"),
        WHOLE.replace("[230, 230, 230]", '"#E6E6E6"'),
        WHOLE.replace("[230, 230, 230]", "'#e6e6e6'"),
        WHOLE.replace("glass", '" glass "'),
    ],
)
def test_the_same_in_another_spelling(described, text):
    made, plain = described(text), described(WHOLE)
    assert made.class_map == plain.class_map
    assert (made.name, made.mpp, made.tile_px) == ("mine", 1.0, 64)


def test_a_list_of_classes_gets_colours_that_differ(described):
    names = [f"class{number}" for number in range(40)]
    colors = described(HEAD + f"classes: [{', '.join(names)}]").class_map.colors
    assert len(set(colors)) == 40
    assert colors[0] == (225, 225, 225)


def test_names_of_classes_are_found_in_any_spelling(described):
    text = WHOLE.replace("tumour", "Dr\u00fcse") + (
        "diagnoses: {A: Dru\u0308se, B: [Stroma]}\ndrawing_order: [GLASS]\nmask_values: {0: null, 255: dr\u00fcse}\n"
        'class_names: {Gland: Dru\u0308se, "Ignore*": null}\nwhite_background: {label: Glass}\nframe: bounds\n'
    )
    made = described(text)
    assert made.class_map.diagnoses == {"A": ("Dr\u00fcse",), "B": ("stroma",)}
    assert made.drawing_order == ("glass",)
    assert made.mask_values == {0: None, 255: "Dr\u00fcse"}
    assert made.class_names == {"Gland": "Dr\u00fcse", "Ignore*": None}
    assert made.white is not None and made.white.label == "glass"
    assert made.frame == "bounds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHOLE + "  stroma: [1, 1, 1]\n", r"key 'stroma' of 'classes' is there twice \(lines 6 and 8\); keep one"),
        (WHOLE + "mpp: 2\n", r"key 'mpp' is there twice \(lines 2 and 8\)"),
        (WHOLE + "  Dr\u00fcse: [1, 1, 1]\n  Dru\u0308se: [1, 1, 2]\n", "is there twice"),
        (WHOLE + "  'tumour ': [1, 1, 1]\n", "key 'classes': Value error, a class is there twice"),
        (HEAD + "classes: [glass, glass]\n", "a class is there twice"),
        (WHOLE.replace("glass", "no"), "key 'classes', line 5: 'no' is true or false to YAML; .*marks: \"no\""),
        (WHOLE.replace("glass", "null"), "'null' is nothing to YAML"),
        (WHOLE.replace("glass", "1"), "'1' is a number to YAML"),
        (HEAD + "classes: [yes, stroma]\n", "'yes' is true or false to YAML"),
        (WHOLE + "diagnoses: {1: [stroma], 2: [tumour]}\n", "key 'diagnoses', line 8: '1' is a number"),
        (WHOLE + "diagnoses: {A: [off]}\n", "key 'diagnoses', line 8: 'off' is true or false"),
        (WHOLE + "class_names: {no: stroma}\n", "key 'class_names', line 8: 'no' is true or false"),
        (WHOLE + "drawing_order: [1]\n", "key 'drawing_order', line 8: '1' is a number"),
        (WHOLE.replace("mine", "2024"), "key 'name', line 1: '2024' is a number"),
        (
            WHOLE.replace("[230, 230, 230]", "#E6E6E6"),
            r"key 'classes.glass': .*has no colour; write \[230, .*is a comment",
        ),
        (WHOLE.replace("[230, 230, 230]", '"grey"'), "key 'classes.glass': .*'grey' is no colour"),
        (WHOLE.replace("[230, 230, 230]", "[[1], 2, 3]"), "key 'classes.glass.0'"),
        (WHOLE.replace("1.0", "0,5"), "key 'mpp': .*'0,5' is not a number; write 0.5"),
        (WHOLE.replace("1.0", "yes"), "key 'mpp': .*true is not a number"),
        (WHOLE.replace("  stroma", "\tstroma"), "not YAML: .*line 6.*indent with blanks, not with tabs"),
        (WHOLE.encode("utf-16-le"), "UTF-16 without a byte order mark.*save it as UTF-8"),
        (WHOLE.replace("tumour", "Dr\u00fcse").encode("cp1252"), "0xfc in line 7; it looks like Windows-1252"),
        (WHOLE.replace("mine", "my data"), "name 'my data' cannot be a file name; .*for instance 'my_data'"),
        (WHOLE.replace("mine", "Pr\u00e4parate"), "for instance 'Praeparate'"),
        (WHOLE + "diagnoses: {A: [tumor]}\n", r"key 'diagnoses', 'A': unknown class 'tumor': did you mean 'tumour'\?"),
        (WHOLE + "class_names: {Tumor: tumor}\n", "key 'class_names', 'Tumor': unknown class 'tumor'"),
        (WHOLE + "mask_values: {255: tumor}\n", "key 'mask_values', 255: unknown class 'tumor'"),
        (WHOLE + "mask_values: {256: tumour}\n", "key 'mask_values.256'.*less than or equal to 255"),
        (WHOLE + "mask_values: {white: tumour}\n", "key 'mask_values.white'.*integer"),
        (WHOLE + "mask_values: {yes: tumour}\n", "key 'mask_values.1'.*true is not a number"),
        (WHOLE + "mask_values: [tumour]\n", "key 'mask_values'"),
        (WHOLE + "frame: crop\n", "key 'frame'.*'auto', 'slide' or 'bounds'"),
        (WHOLE + "class_name: {a: b}\n", "unknown key 'class_name': did you mean 'class_names'"),
        (HEAD + "classes: {tumour: [1, 2, 3]}\n", "key 'classes': class names must be 2 to 254, here are 1"),
        (HEAD + "classes:\n", "key 'classes'"),
        (HEAD, "key 'classes'"),
        ("a: &a [*a]\n" + WHOLE, "key 'a'"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_what_is_not_meant_is_one_line_that_names_the_key(described, text, message):
    with pytest.raises(DataError, match=message) as caught:
        described(text)
    assert "dataset.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
