from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tissuebench.errors import DataError
from tissuebench.results.records.object_metrics import SUMS
from tissuebench.results.records.object_sums import ObjectSums
from tissuebench.results.records.trial_result import SCHEMA, SlideCounts, TrialResult, check_trial_id


@pytest.fixture
def result(make_trial):
    return make_trial(rng=np.random.default_rng(0))


def same(a, b):
    left, right = dict(vars(a)), dict(vars(b))
    for name in ("counts", "boundaries", "calibration", "areas", "slide_seconds"):
        np.testing.assert_array_equal(left.pop(name), right.pop(name))
    return left == right and list(a.diagnoses) == list(b.diagnoses)


def test_what_is_written_is_read(result, tmp_path):
    path = tmp_path / "new" / "folder" / "a.parquet"
    result.write(path)
    back = TrialResult.read(path)
    assert same(result, back)
    assert back.counts.dtype == back.boundaries.dtype == back.areas.dtype == np.int64
    assert [entry.name for entry in path.parent.iterdir()] == ["a.parquet"]


def test_a_row_is_a_slide_and_counts_are_row_major(result, tmp_path):
    result.write(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.names == SCHEMA.names
    assert table.num_rows == len(result.slide_ids)
    assert table["counts"][1].as_py()[0 * 3 + 2] == result.counts[1, 0, 2]
    assert table["areas"][1].as_py() == result.areas[1].tolist()
    assert table["boundaries"][1].as_py()[2 * 4 + 1] == result.boundaries[1, 2, 1]


def with_objects(result, **changed):
    sums = np.random.default_rng(1).random((len(result.slide_ids), 1, len(SUMS)))
    return replace(result, objects=ObjectSums(**{"classes": ("HCC",), "unit": "um", "sums": sums} | changed))


def test_sums_over_objects_are_written_and_read(result, tmp_path):
    """Only where there are any: the file of another result is what it was before there were objects."""
    result.write(tmp_path / "a.parquet")
    assert TrialResult.read(tmp_path / "a.parquet").objects is None
    assert "objects" not in pq.read_table(tmp_path / "a.parquet").schema.names
    one = with_objects(result)
    one.write(tmp_path / "b.parquet")
    back = TrialResult.read(tmp_path / "b.parquet").objects
    assert (back.classes, back.unit) == (("HCC",), "um")
    np.testing.assert_array_equal(back.sums, one.objects.sums)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"classes": ("nucleus",)}, r"has objects of classes \['nucleus'\]: expected some of"),
        ({"classes": ()}, "has objects of classes"),
        ({"unit": "mm"}, "has distances in 'mm': expected um or px"),
        ({"sums": np.zeros((12, 1, 3))}, r"has sums of objects of shape \(12, 1, 3\), float64: expected \(12, 1, 11\)"),
        ({"sums": np.full((12, 1, 11), np.nan)}, "negative or not finite"),
    ],
)
def test_sums_over_objects_that_cannot_be(result, changed, complaint):
    with pytest.raises(DataError, match=complaint):
        with_objects(result, **changed)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named_with_what_to_do(result, tmp_path, share):
    path = tmp_path / "deadbeef.parquet"
    result.write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"deadbeef\.parquet: not a usable result .*; delete it") as error:
        TrialResult.read(path)
    assert "\n" not in str(error.value)


def test_a_flipped_byte_is_an_error_or_harmless(result, tmp_path):
    path = tmp_path / "a.parquet"
    result.write(path)
    data = path.read_bytes()
    noticed = 0
    for at in np.random.default_rng(0).choice(len(data), 150, replace=False):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        path.write_bytes(bytes(broken))
        try:
            assert same(TrialResult.read(path), result)
        except DataError:
            noticed += 1
    assert noticed > 50


def test_foreign_files(result, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(DataError, match="not written by tissuebench"):
        TrialResult.read(path)
    with pytest.raises(DataError, match="no such result"):
        TrialResult.read(tmp_path / "none.parquet")
    result.write(path)
    table = pq.read_table(path)
    other = {
        b"tissuebench": table.schema.metadata[b"tissuebench"].replace(b'"schema_version":4', b'"schema_version":9')
    }
    pq.write_table(table.replace_schema_metadata(other), path)
    with pytest.raises(DataError, match="schema version 9, this release reads 4"):
        TrialResult.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trial_id": "../../etc"}, "hexadecimal"),
        ({"minutes": float("nan")}, "minutes"),
        ({"classes": ("a", "a", "b")}, "class twice"),
        ({"diagnoses": {"HCC": ("nowhere",)}}, "nowhere"),
        ({"counts": np.zeros((12, 2, 2), np.int64)}, "shape"),
        ({"counts": np.full((12, 3, 3), -1)}, "negative"),
        ({"counts": np.zeros((12, 3, 3))}, "float64"),
        ({"boundaries": np.zeros((12, 3, 3), np.int64)}, "shape"),
        ({"boundaries": np.zeros((12, 3, 4))}, "float64"),
        ({"boundaries": np.full((12, 3, 4), [5, 6, 5, 5])}, "more than there is"),
        ({"boundaries": np.full((12, 3, 4), [5, 5, 5, -1])}, "more than there is"),
        ({"calibration": np.zeros((12, 10, 3))}, r"calibration of shape \(12, 10, 3\)"),
        ({"calibration": np.zeros((12, 15, 3))}, "not of its annotated pixels"),
        ({"calibration": np.full((12, 15, 3), np.nan)}, "not of its annotated pixels"),
        ({"areas": np.zeros((12, 2), np.int64)}, r"areas of shape \(12, 2\): expected \(12, 3\)"),
        ({"areas": np.zeros((12, 3))}, "areas of type float64"),
        ({"areas": np.full((12, 3), -1)}, "negative areas"),
        ({"slide_seconds": np.zeros(3)}, "different lengths"),
        ({"colors": ((1, 2, 3),)}, "colours"),
        ({"colors": ((1, 2, 3), (4, 5, 6), (7, 8, 256))}, "colours"),
        ({"slide_ids": ("s",) * 12}, "slide twice"),
        ({"slide_diagnoses": ("XXX",) * 12}, "'s0' has diagnosis 'XXX'.*declares HCC, CCA"),
    ],
)
def test_contradictions_are_errors(result, change, message):
    with pytest.raises(DataError, match=message):
        replace(result, **change)


def test_mixed_and_missing_diagnoses_are_fine(result):
    replace(result, slide_diagnoses=("", "HCC;CCA") * 6)


def test_areas_are_the_predicted_annotated_pixels_unless_given(result, tmp_path):
    np.testing.assert_array_equal(result.areas, result.counts.sum(1))
    given = replace(result, areas=np.arange(36).reshape(12, 3))
    given.write(tmp_path / "a.parquet")
    np.testing.assert_array_equal(TrialResult.read(tmp_path / "a.parquet").areas, np.arange(36).reshape(12, 3))


def test_a_result_of_before_is_told_to_be_run_again(result, tmp_path):
    path = tmp_path / "a.parquet"
    result.write(path)
    table = pq.read_table(path)
    meta = table.schema.metadata[b"tissuebench"].replace(b'"schema_version":4', b'"schema_version":3')
    pq.write_table(table.drop_columns("areas").replace_schema_metadata({b"tissuebench": meta}), path)
    with pytest.raises(DataError, match=r"schema version 3, this release reads 4\); delete it and run its plan again"):
        TrialResult.read(path)


def test_rows_to_columns():
    rows = [
        SlideCounts(
            f"p{i}",
            f"s{i}",
            "",
            np.full((2, 2), i, np.int32),
            np.full((2, 4), 10 + i, np.int32),
            np.full((15, 3), i + 0.5),
            0.25 * i,
            None if i == 1 else np.full(2, 20 + i, np.int32),
        )
        for i in range(3)
    ]
    columns = TrialResult.columns(rows)
    assert columns["patient_ids"] == ("p0", "p1", "p2")
    assert columns["slide_ids"] == ("s0", "s1", "s2")
    assert columns["slide_diagnoses"] == ("", "", "")
    assert columns["counts"].dtype == columns["boundaries"].dtype == np.int64
    assert columns["counts"][:, 0, 0].tolist() == [0, 1, 2]
    assert columns["boundaries"][:, 1, 3].tolist() == [10, 11, 12]
    assert columns["calibration"][:, 14, 2].tolist() == [0.5, 1.5, 2.5]
    assert columns["slide_seconds"].tolist() == [0, 0.25, 0.5]
    assert columns["areas"].dtype == np.int64 and columns["areas"].tolist() == [[20, 20], [2, 2], [22, 22]]
    with pytest.raises(DataError, match="at least one"):
        TrialResult.columns([])


@pytest.mark.parametrize("bad", ["", "abc", "ABCDEF12", "g" * 8, "a" * 65, "../aaaaaaaa", "aaaaaaaa\n"])
def test_trial_ids_are_safe_paths(bad):
    with pytest.raises(DataError):
        check_trial_id(bad)
