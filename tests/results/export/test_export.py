"""What stands behind the tables, as files for other programs."""

import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from tissuebench.cli.main import cli
from tissuebench.errors import ConfigError, DataError
from tissuebench.results.export.export import (
    Format,
    export,
    formats_of,
    label_efficiency,
    patient_scores,
    slide_areas,
    slide_counts,
)
from tissuebench.results.export.relations import of_rows
from tissuebench.results.metrics import dice, miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.render.latex import escape, to_latex
from tissuebench.results.render.terminal import to_csv, to_json
from tissuebench.results.tables.label_efficiency import EfficiencyRow
from tissuebench.results.tables.leaderboard import CellKey, LeaderboardRow, build


@pytest.fixture(scope="module")
def results(make_trial):
    made = [
        make_trial(method, budget, 0, seed, rng=np.random.default_rng([seed, i]), skill=skill, minutes=minutes)
        for seed in range(2)
        for i, (method, skill) in enumerate((("supervised", 0.3), ("good[a=1,b=2]", 0.9)))
        for budget, minutes in (("masks:3p", 24.0), ("masks:25%", 130.0))
    ]
    return [*made, make_trial("full", "masks:all", rng=np.random.default_rng(9), skill=2.0, minutes=999.0)]


def refused(word):
    pytest.fail(f"{word} is no JSON")


def records(relation):
    return json.loads(relation.to_json())


def test_every_relation_is_the_same_in_every_format(results, tmp_path):
    written = export([results], tmp_path / "out", list(Format))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    names = {path.stem for path in written}
    assert names == {"leaderboard", "pairs", "ranks", "efficiency", "compute", "patients", "slides", "areas"}
    for name in names:
        asked = [tmp_path / "out" / f"{name}.{form}" for form in ("csv", "json", "parquet")]
        as_csv = list(csv.DictReader(io.StringIO(asked[0].read_text())))
        as_json = json.loads(asked[1].read_text(), parse_constant=refused)
        table = pq.read_table(asked[2])
        assert bool(as_json) == (name != "ranks"), name  # fewer than five datasets are not ranked
        assert table.to_pylist() == as_json, name
        assert as_csv == [{key: "" if v is None else str(v) for key, v in row.items()} for row in as_json], name
        assert pa.null() not in table.schema.types, name


def test_the_leaderboard_is_that_of_the_table(results, tmp_path):
    export([results], tmp_path, [Format.CSV, Format.JSON])
    board = build(results)
    assert json.loads((tmp_path / "leaderboard.json").read_text()) == json.loads(to_json(board.rows))
    assert (tmp_path / "leaderboard.csv").read_text() == to_csv(board.rows)


def test_only_what_is_asked_for_is_written(results, tmp_path):
    (tmp_path / "leaderboard.tex").write_text("old")
    assert [path.name for path in export([results], tmp_path, [Format.LATEX])] == ["leaderboard.tex"]
    assert [path.name for path in tmp_path.iterdir()] == ["leaderboard.tex"]
    assert "old" not in (tmp_path / "leaderboard.tex").read_text()


def test_formats_are_named():
    assert formats_of(["json", "csv", "json"]) == [Format.JSON, Format.CSV]
    with pytest.raises(ConfigError, match="unknown format 'parqet': did you mean 'parquet'"):
        formats_of(["csv", "parqet"])
    with pytest.raises(ConfigError, match="names none"):
        formats_of([])


def test_censored_minutes_are_null_and_say_on_which_side():
    row = EfficiencyRow("d", "m", "miou", 3, 8.0, 80.0, 0.5, 0.4, 0.6, 30.0, 0.0, math.inf, 8.0, 80.0)
    never = replace(row, minutes=math.inf, minutes_low=40.0)
    unknown = replace(row, minutes=None, minutes_low=None, minutes_high=None)
    got = records(label_efficiency([row, never, unknown]))
    sides = [
        [(one[name], one[f"{name}_censored"]) for name in ("minutes", "minutes_low", "minutes_high")] for one in got
    ]
    assert sides == [
        [(30.0, None), (None, "left"), (None, "right")],
        [(None, "right"), (40.0, None), (None, "right")],
        [(None, None)] * 3,
    ]
    assert {one["smallest"] for one in got} == {8.0} and {one["largest"] for one in got} == {80.0}


def test_each_patient_of_each_trial_is_scored_alone(results, make_trial):
    absent = make_trial("absent", counts=[np.diag([5, 5, 0])] * 12)
    rows = records(patient_scores([*results, absent]))
    metrics = {row["metric"] for row in rows}
    assert "balanced_accuracy" not in metrics and {"ece", "area_error"} <= metrics
    assert len(rows) == (len(results) + 1) * 6 * len(metrics)
    assert len({(row["trial_id"], row["patient"], row["metric"]) for row in rows}) == len(rows)
    found = {(row["trial_id"], row["patient"], row["metric"]): row["score"] for row in rows}
    for trial in results:
        for patient in ("p0", "p5"):
            pooled = sum(trial.counts[i] for i, name in enumerate(trial.patient_ids) if name == patient)
            assert found[trial.trial_id, patient, "miou"] == pytest.approx(float(miou(pooled)))
            assert found[trial.trial_id, patient, "dice/CCA"] == pytest.approx(float(dice(pooled)[2]))
    assert found[absent.trial_id, "p0", "dice/CCA"] is None


def test_counts_of_slides_come_back(results):
    rows = records(slide_counts(results))
    for trial in results[:3]:
        back = np.zeros_like(trial.counts)
        for row in (row for row in rows if row["trial_id"] == trial.trial_id):
            at = trial.slide_ids.index(row["slide"])
            assert row["patient"] == trial.patient_ids[at] and row["seed"] == trial.seed
            back[at, trial.classes.index(row["truth"]), trial.classes.index(row["predicted"])] += row["pixels"]
        np.testing.assert_array_equal(back, trial.counts)
    assert all(row["pixels"] > 0 for row in rows)


def test_patients_that_nobody_annotated_have_no_scores_of_their_own_but_areas(make_trial):
    counts = np.array([np.diag([5, 5, 0])] * 11 + [np.zeros((3, 3))], dtype=np.int64)
    areas = np.arange(36).reshape(12, 3)
    names = tuple(f"p{i}" for i in range(12))
    trial = make_trial(counts=counts, areas=areas, patient_ids=names, slide_diagnoses=("HCC", "CCA", "") * 4)
    assert {row["patient"] for row in records(patient_scores([trial]))} == set(names[:11])
    rows = records(slide_areas([trial]))
    back = {(row["slide"], row["class"]): row["pixels"] for row in rows}
    expected = {
        (slide, name): int(areas[i, c])
        for i, slide in enumerate(trial.slide_ids)
        for c, name in enumerate(trial.classes)
        if trial.slide_diagnoses[i]
    }
    assert back == expected and len(rows) == len(expected)
    assert {row["patient"] for row in rows} == {name for i, name in enumerate(names) if i % 3 < 2}


def test_no_rows_still_have_columns_with_types():
    empty = of_rows("leaderboard", LeaderboardRow, [])
    assert empty.schema.field("mean").type == pa.float64() and empty.schema.field("tie").type == pa.bool_()
    assert empty.to_json() == b"[]\n" and pq.read_table(pa.BufferReader(empty.to_parquet())).num_rows == 0
    assert empty.to_csv().decode().startswith("dataset,method,budget")


def test_a_value_that_is_no_number_is_refused():
    row = build([])
    assert row.rows == ()
    bad = of_rows("leaderboard", CellKey, [CellKey("d", "m", "b", 1, math.nan)])
    with pytest.raises(ValueError, match="not JSON compliant"):
        bad.to_json()


def unescaped(text):
    """LaTeX set as plain text again."""
    words = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<"}
    words |= {r"\textgreater{}": ">", r"\textbar{}": "|", "{[}": "[", "{]}": "]", "{}": ""}
    words |= {f"\\{character}": character for character in "{}$&%#_"}
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.sub(pattern, lambda found: words[found[0]], text)


@given(st.text(alphabet="ab-\\{}$&%#_~^<>|[]é ", max_size=30))
@example("a---b")
def test_any_name_is_set_as_it_is(text):
    escaped = escape(text)
    assert unescaped(escaped) == text
    assert not re.search(r"(?<!\\)[$&%#_^~]", escaped.replace("\\textbackslash{}", ""))
    assert "--" not in escaped
    bare = re.sub(r"\\[{}]", "", escaped)
    assert bare.count("{") == bare.count("}")


def test_the_latex_table_is_whole(results, make_trial):
    odd = [
        make_trial(method, "masks:25%", rng=np.random.default_rng(0), dataset="a_b & c", diagnoses={})
        for method in ("supervised", "x_1[a]", "x_1[b]")
    ]
    text = to_latex([build(odd), build(results)])
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 1 and "documentclass" not in text
    assert text.index("\\toprule") < text.index("\\midrule") < text.index("\\bottomrule")
    assert "a\\_b \\& c" in text and "x\\_1{[}a{]}" in text and "masks:25\\%" in text
    body = text.split("\\toprule")[1].split("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}
    assert len(lines) == 1 + 3 + 5
    assert all(line.count("$") % 2 == 0 and line.count("{") == line.count("}") for line in text.splitlines())
    assert "% good: with a=1, b=2" in text and "mIoU $-$ supervised" in text and "ECE $\\downarrow$" in text


def test_bold_is_what_the_table_marks(results):
    board = build(results)
    for line in to_latex([board]).splitlines():
        if not line.startswith(("good &", "supervised &", "full &")):
            continue
        method, budget, _, mean = (cell.strip() for cell in line.split(" & ")[:4])
        (row,) = (
            one
            for one in board.rows
            if one.metric == "miou" and one.method.startswith(method) and one.budget == budget.replace("\\", "")
        )
        assert row.tie == mean.startswith("$\\mathbf{")
        assert f"{row.mean:.3f}".removeprefix("0") in mean and f"{row.low:.3f}".removeprefix("0") in mean


def test_a_gap_in_latex_says_what_is_missing(results):
    board = build(results, expected=[CellKey("toy", "supervised", "masks:3p", 5)])
    assert "2 of 5 trials" in to_latex([board])


def test_the_command(results, tmp_path):
    store = ResultStore(tmp_path / "runs" / "results")
    for one in results:
        store.write(one)
    done = CliRunner().invoke(cli, ["results", "export", "--home", str(tmp_path), "--format", "csv,latex"])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "export"
    assert sorted(done.stdout.split()) == sorted(str(path) for path in folder.iterdir())
    assert (folder / "leaderboard.tex").is_file() and not (folder / "leaderboard.json").exists()
    elsewhere = tmp_path / "new" / "folder"
    command = ["results", "export", "--home", str(tmp_path), "--out", str(elsewhere), "--format", "json"]
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert len(json.loads((elsewhere / "compute.json").read_text())) == 5
    for wrong, error in ((["--dataset", "none"], DataError), (["--format", "jsn"], ConfigError)):
        failed = CliRunner().invoke(cli, ["results", "export", "--home", str(tmp_path), *wrong])
        assert isinstance(failed.exception, error) and "\n" not in str(failed.exception)
