from __future__ import annotations

import re

import pytest

from tissuebench.datasets.manifest import BadRow, ManifestRow, read_manifest
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

CLASSES = ClassMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), {"A": ("a",), "B": ("b",)})
HEADER = "slide_id,patient_id,image,annotation,diagnosis,split,mpp\n"


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
        (
            HEADER.encode("utf-16-le"),
            r"cannot be read as UTF-8.*UTF-16 without a byte order mark.*; save it as 'CSV UTF-8'",
        ),
        (HEADER.encode() + b"S\xe4,P1,1.png,2.png,A,train,\n", "0xe4 in line 2; it looks like Windows-1252"),
        (HEADER + "S1," + "x" * 200_000 + ",1.png,2.png,A,train,\n", "cannot be read as CSV"),
    ],
)
def test_a_broken_manifest_names_the_file(parsed, text, message):
    with pytest.raises(DataError, match=message) as caught:
        parsed(text)
    assert "manifest.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "S1,,1.png,2.png,A,train,\n", "row 2: patient_id is empty"),
        (HEADER + "S1,P1,,2.png,A,train,\n", "row 2: image is empty"),
        (HEADER + "S1,NA,1.png,2.png,A,train,\n", r"row 2: patient_id is empty \('NA' is no value\)"),
        (HEADER + "S1,P1\n", "row 2: has 2 cells, but the header has 7"),
        (
            HEADER + "S1,P1,1.png,2.png,A,B,train,0.5\n",
            r"row 2: has 8 cells, .* quotation marks \(the last of it: '0.5'",
        ),
        (HEADER + "S1,1E+05,1.png,2.png,A,train,\n", "patient_id '1E\\+05' looks like a number that a spreadsheet"),
        (
            HEADER + "S1,M\u00fcller,1.png,2.png,A,train,\n",
            "patient_id 'M\u00fcller' cannot be .* for instance 'Mueller'",
        ),
        (HEADER + "S1,P1,1.png,2.png,AA,train,\n", "row 2: unknown diagnosis 'AA'"),
        (HEADER + "S1,P1,1.png,2.png,A,training,\n", "unknown split 'training': did you mean 'train'"),
        (HEADER + "../S1,P1,1.png,2.png,A,train,\n", r"slide_id '\.\./S1' cannot be a file name"),
        (HEADER + "S1,P/1,1.png,2.png,A,train,\n", "patient_id 'P/1' cannot be a file name"),
        (HEADER + "S1,P1,1.png,2.png,A,train,fine\n", "row 2: mpp 'fine' is not a number"),
        (HEADER + "S1,P1,1.png,2.png,A,train,0\n", "row 2: mpp '0' is not a resolution"),
        (HEADER + "S1,P1,1.png,2.png,A,train,-0.5\n", "mpp '-0.5' is not a resolution"),
        (HEADER + "S1,P1,1.png,2.png,A,train,1_0\n", "mpp '1_0' is not a number"),
        (HEADER + "S1,P1,1.png,2.png,A,train,inf\n", "mpp 'inf' is not a resolution"),
        (HEADER.replace("mpp", "tags") + "S1,P1,1.png,,A,train,a;c\n", "unknown class 'c': .*column 'tags'"),
    ],
)
def test_a_bad_row_is_handed_back_with_its_reason_and_the_others_stay(parsed, tmp_path, text, message):
    good, bad = parsed(text.replace("\n", "\nS0,P0,0.png,0.geojson,B,test,\n", 1))
    assert isinstance(good, ManifestRow)
    assert good.slide_id == "S0"
    assert isinstance(bad, BadRow)
    message = message.replace("row 2", "row 3")
    assert re.search(message, bad.reason), bad.reason
    assert "manifest.csv: row 3" in bad.reason
    assert "\n" not in bad.reason
    assert bad.slide_id in text


def test_a_slide_nobody_annotated(parsed):
    without, empty = parsed("slide_id,patient_id,image,annotation\nS1,P1,1.png,\nS2,P2,2.png,NA\n")
    assert without.annotation is empty.annotation is None
    (row,) = parsed("slide_id,patient_id,image,tags,reader\nS1,P1,1.png,a; b,openslide\n")
    assert (row.annotation, row.tags, row.reader) == (None, ("a", "b"), "openslide")


def test_a_bad_row_remembers_its_files(parsed, tmp_path):
    (bad,) = parsed("slide_id,patient_id,image,annotation\n../S1,P1,1.png,1.xml\n")
    assert (bad.slide_id, bad.files) == ("../S1", (tmp_path / "1.png", tmp_path / "1.xml"))
