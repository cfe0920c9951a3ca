"""What stands behind the tables, as files for other programs."""

import csv
import io
import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from tissuebench.cli.main import cli
from tissuebench.errors import ConfigError, DataError
from tissuebench.results.export.export import Format, encoded, export, formats_of
from tissuebench.results.frames.rows import leaderboard_csv, of_rows
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.render.latex import escape, to_latex
from tissuebench.results.render.terminal import to_json
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
    assert (tmp_path / "leaderboard.csv").read_text() == leaderboard_csv(board.rows)


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


def test_no_rows_still_have_columns_with_types():
    empty = of_rows(LeaderboardRow, [])
    schema = pq.read_table(pa.BufferReader(encoded(empty, Format.PARQUET))).schema
    assert schema.field("mean").type == pa.float64() and schema.field("tie").type == pa.bool_()
    assert encoded(empty, Format.JSON) == b"[]\n"
    assert encoded(empty, Format.CSV).decode().startswith("dataset,method,budget")


def test_numbers_are_written_in_full():
    row = CellKey("d", "m", "b", 1, 0.1 + 0.2)
    assert b"0.30000000000000004" in encoded(of_rows(CellKey, [row]), Format.JSON)
    assert b"0.30000000000000004" in encoded(of_rows(CellKey, [row]), Format.CSV)


def test_an_infinite_value_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        encoded(of_rows(CellKey, [CellKey("d", "m", "b", 1, math.inf)]), Format.JSON)


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
