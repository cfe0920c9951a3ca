"""Manifests as spreadsheets and people write them: the same slides, or one line that says what to change."""

from __future__ import annotations

import pytest

from tissuebench.datasets.manifest import BadRow, ManifestRow, manifest_notes, read_manifest
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("stroma", "tumour"), ((0, 0, 0), (1, 1, 1)), {"A": ("stroma",), "B": ("tumour",)})
GOOD = (
    "slide_id,patient_id,image,annotation,diagnosis,split\n"
    "S1,P1,slides/S1.tif,slides/S1.geojson,A,train\n"
    "S2,P2,slides/S2.tif,slides/S2.geojson,B,val\n"
    "S3,P3,slides/S3.tif,slides/S3.geojson,A,test\n"
)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "slides").mkdir()
    for number in (1, 2, 3):
        for suffix in ("tif", "geojson"):
            (tmp_path / "slides" / f"S{number}.{suffix}").touch()
    return tmp_path / "manifest.csv"


@pytest.fixture
def parsed(path):
    def write_and_read(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_manifest(path, CLASSES)

    return write_and_read


@pytest.fixture
def noted(path, parsed):
    def write_and_note(content):
        parsed(content)
        return manifest_notes(path, CLASSES)

    return write_and_note


def upper_header(text):
    head, _, rest = text.partition("\n")
    return f"{head.upper()}\n{rest}"


SAME = {
    "semicolons": GOOD.replace(",", ";"),
    "tabs": GOOD.replace(",", "\t"),
    "bars": GOOD.replace(",", "|"),
    "excel_says_its_separator": "sep=;\r\n" + GOOD.replace(",", ";").replace("\n", "\r\n"),
    "excel_says_another_separator": "sep=:\n" + GOOD.replace(",", ":"),
    "excel_is_wrong": "sep=;\n" + GOOD,
    "byte_order_mark": "\ufeff" + GOOD,
    "utf_16": GOOD.replace(",", "\t").encode("utf-16"),
    "utf_16_of_the_other_end": b"\xfe\xff" + GOOD.encode("utf-16-be"),
    "old_mac": GOOD.replace("\n", "\r"),
    "capitals_in_the_header": upper_header(GOOD),
    "blanks_in_the_header": GOOD.replace("slide_id,patient_id", " slide_id , patient_id\u00a0"),
    "blanks_for_underscores": GOOD.replace("slide_id,patient_id", "Slide ID,Patient-ID"),
    "quoted": "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in GOOD.splitlines()),
    "quoted_after_a_blank": GOOD.replace(",slides/S1.tif,", ', "slides/S1.tif",'),
    "a_comment_above": "# list of 3 May\n\n" + GOOD,
    "empty_rows": GOOD.replace("S2,", ",,,,,\n\n  \nS2,") + ",,,,,\r\n",
    "empty_columns": "".join(f"{line},,\n" for line in GOOD.splitlines()),
    "an_empty_column_between": GOOD.replace("image,", "image,,").replace(".tif,", ".tif,,"),
    "capitals_in_the_split": GOOD.replace("train", "Train").replace("test", "TEST"),
    "capitals_in_a_diagnosis": GOOD.replace(",A,", ",a,"),
    "blanks_that_nobody_sees": GOOD.replace("S1,", "S1\u00a0,").replace("P2", "\u200bP2"),
    "backslashes": GOOD.replace("/", "\\"),
}


@pytest.mark.parametrize("variant", SAME)
def test_the_same_slides_in_another_spelling(parsed, variant):
    expected = parsed(GOOD)
    assert len(expected) == 3
    assert all(isinstance(row, ManifestRow) for row in expected)
    assert parsed(SAME[variant]) == expected


REFUSED = {
    "a_column_twice": (
        "\n".join(f"{line},{last}" for line, last in zip(GOOD.splitlines(), ("diagnosis", *"BBB"), strict=True)),
        r"column 'diagnosis' is there twice \(columns 5 and 7\); keep one",
    ),
    "no_header": (
        GOOD.partition("\n")[2],
        r"column 'slide_id' is missing; .* the first row holds: s1, p1, slides/s1\.tif",
    ),
    "a_title": ("My cohort,,,,,\n\n" + GOOD, "the names of the columns are in row 3; delete the rows above it"),
    "another_separator": (
        GOOD.replace(",", "/"),
        "columns are separated by comma, semicolon, tab or bar, not as in 'sl",
    ),
    "a_workbook": (b"PK\x03\x04\xff", "it is a workbook of Excel .* save it as 'CSV UTF-8'"),
    "a_column_without_a_name": (
        GOOD.replace("image,", "image,,").replace(".tif,", ".tif,x,"),
        "column 4 has no name, but row 2 holds 'x' in it; name it or delete it",
    ),
    "a_quotation_mark_too_few": (GOOD.replace("S2,", '"S2,'), "row 3: cannot be read as CSV"),
    "one_patient_in_two_parts_by_capitals": (
        GOOD.replace("P1", "p3"),
        "patients 'p3' and 'P3' differ only by capitals or leading zeros and are in different parts of the split",
    ),
    "one_patient_in_two_parts_by_zeros": (
        GOOD.replace("P1", "007").replace("P3", "7"),
        "patients '007' and '7' differ",
    ),
}


@pytest.mark.parametrize("variant", REFUSED)
def test_a_file_that_may_be_meant_otherwise_is_refused(parsed, variant):
    content, message = REFUSED[variant]
    with pytest.raises(DataError, match=message) as caught:
        parsed(content)
    assert "manifest.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


BAD = {
    "an_unquoted_comma": (GOOD.replace("S1.geojson,A,", "S1.geojson,A,B,"), "row 2: has 7 cells, but the header has 6"),
    "an_unquoted_comma_in_the_last_column": (GOOD.replace("A,train", "A,train,B"), "the last of it: 'B'"),
    "a_cell_too_few": (GOOD.replace("S1.geojson,A,train", "S1.geojson,A"), "row 2: has 5 cells, but the header has 6"),
    "another_case": (
        GOOD.replace("slides/S1.tif", "Slides/s1.TIF"),
        "row 2: image 'Slides/s1.TIF': no such file; did you mean 'slides/S1.tif'",
    ),
    "another_case_of_the_annotation": (
        GOOD.replace("S1.geojson", "s1.geojson"),
        "annotation 'slides/s1.geojson': no such",
    ),
}


@pytest.mark.parametrize("variant", BAD)
def test_a_row_that_does_not_fit_is_bad_and_the_others_stay(parsed, variant):
    content, message = BAD[variant]
    bad, *others = parsed(content)
    assert isinstance(bad, BadRow)
    assert bad.slide_id == "S1"
    assert message in bad.reason
    assert [row.slide_id for row in others if isinstance(row, ManifestRow)] == ["S2", "S3"]


def test_rows_are_counted_as_lines_of_the_file(parsed):
    text = "# one\n" + GOOD.replace("S2,P2,", 'S2,"P\n2",').replace("S3,P3", "S3,P/3")
    first, second, third = parsed(text)
    assert isinstance(first, ManifestRow)
    assert "row 4: patient_id" in second.reason
    assert "row 6: patient_id" in third.reason


def test_decomposed_names_of_files_are_found(parsed, path):
    (path.parent / "slides" / "Pra\u0308p.tif").touch()
    row = parsed(GOOD.replace("slides/S1.tif", "slides/Pr\u00e4p.tif"))[0]
    assert isinstance(row, ManifestRow)
    assert row.image.is_file()


@pytest.mark.parametrize("cell", ["NA", "n/a", "NaN", "-", "None"])
def test_a_missing_value_is_an_empty_cell_with_a_note(parsed, noted, cell):
    text = GOOD.replace("slides/S1.geojson,A", f"{cell},{cell}")
    assert parsed(text)[0] == parsed(GOOD.replace("slides/S1.geojson,A", ","))[0]
    assert [f"{cell!r} in column {column!r}" in note for note, column in zip(noted(text), ("annotation", "diagnosis"), strict=True)] == [True, True]  # fmt: skip


def test_a_sign_that_is_a_file_or_a_diagnosis_is_no_missing_value(path):
    (path.parent / "NA").touch()
    path.write_text(GOOD.replace("slides/S1.geojson,A", "NA,none"))
    classes = ClassMap(("stroma", "tumour"), ((0, 0, 0), (1, 1, 1)), {"none": ("stroma",), **CLASSES.diagnoses})
    row = read_manifest(path, classes)[0]
    assert isinstance(row, ManifestRow)
    assert (row.annotation, row.diagnosis) == (path.parent / "NA", ("none",))


@pytest.mark.parametrize(("cell", "mpp"), [("0.5", 0.5), ('"0,5"', 0.5), ("5e-1", 0.5), (".25", 0.25)])
def test_a_resolution_with_a_decimal_comma(parsed, cell, mpp):
    row = parsed(f"slide_id,patient_id,image,mpp\nS1,P1,slides/S1.tif,{cell}\n")[0]
    assert isinstance(row, ManifestRow)
    assert row.mpp == mpp


def test_patients_that_look_alike_or_have_two_diagnoses_are_noted(noted):
    unsplit = "\n".join(line.rpartition(",")[0] for line in GOOD.splitlines())
    assert noted(unsplit) == ()
    (alike,) = noted(unsplit.replace("P1", "p2"))
    assert "patients 'p2' and 'P2' differ only by capitals or leading zeros and count as 2 patients" in alike
    (diagnoses,) = noted(unsplit.replace("P1", "P2"))
    assert "slides of patient 'P2' have different diagnoses ('A', 'B'); each slide keeps its own" in diagnoses
