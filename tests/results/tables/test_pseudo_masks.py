"""Pseudo-masks of training tiles against withheld masks: numbers by hand, in files, rows and the table."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tissuebench.errors import DataError
from tissuebench.results.frames.rows import leaderboard_csv
from tissuebench.results.records.pseudo_mask_quality import PseudoQuality, layer_scores
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.render.terminal import render, to_json
from tissuebench.results.tables.leaderboard import CellKey, build

ODD = 'b[6,"7]\n[red]'


def quality(right=30, layers=("sure", ODD)):
    """Of 100 annotated pixels: the first layer gives all a class, the second 40, with IoU 1/3 for each of two classes."""
    first = [[right, 50 - right, 0], [50 - right, right, 0], [0, 0, 0]]
    second = [[10, 10, 0], [10, 10, 0], [0, 0, 0]]
    return PseudoQuality(layers, np.array([first, second], dtype=np.int64), annotated=100, n_tiles=7)


def equal(one, other):
    np.testing.assert_array_equal(one.counts, other.counts)
    assert one.counts.dtype == other.counts.dtype == np.int64
    return (one.layers, one.annotated, one.n_tiles) == (other.layers, other.annotated, other.n_tiles)


@pytest.fixture
def result(make_trial):
    return replace(make_trial(rng=np.random.default_rng(0)), pseudo_masks={"cam": quality()})


@pytest.fixture
def cells(make_trial):
    """One method with pseudo-masks, three runs of which one covers nothing in its second layer, and one without."""
    made = []
    for seed, right in enumerate((25, 30, 40)):
        rng = np.random.default_rng(seed)
        of_seed = quality(right)
        if seed == 2:
            of_seed.counts[1] = 0
        made.append(make_trial(seed=seed, rng=rng))
        made.append(replace(make_trial("mine", seed=seed, rng=rng), pseudo_masks={"cam": of_seed}))
    return made


def printed(board, width=100, **console):
    out = io.StringIO()
    render(board, Console(file=out, width=width, **console))
    return out.getvalue()


def test_scores_are_those_of_the_counts():
    assert quality().miou.tolist() == pytest.approx([30 / 70, 1 / 3])  # the absent class is left out
    assert quality().coverage.tolist() == [1.0, 0.4]
    first, second = layer_scores({"cam": quality()})
    assert (first.label, second.label) == ("sure", ODD)
    both = layer_scores({"two": quality(), "one": quality()})
    assert [one.label for one in both] == ["one/sure", f"one/{ODD}", "two/sure", f"two/{ODD}"]
    blank = PseudoQuality(("a",), np.zeros((1, 3, 3), np.int64), 5, 1)
    assert [(one.miou, one.coverage) for one in layer_scores({"cam": blank})] == [(None, 0.0)]
    assert layer_scores({}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("a", "a")}, "names that differ"),
        ({"layers": ("a", "")}, "names that differ"),
        ({"layers": ("a",)}, "of 1 layers"),
        ({"counts": np.zeros((2, 3, 2), np.int64)}, "shape"),
        ({"counts": np.zeros((2, 3, 3))}, "float64"),
        ({"counts": np.full((2, 3, 3), -1)}, "contradict"),
        ({"annotated": 99}, "contradict"),
        ({"n_tiles": 0}, "contradict"),
        ({"counts": np.zeros((2, 3, 3), np.int64), "annotated": 0}, "annotate nothing"),
    ],
)
def test_contradictions_are_errors(change, message):
    with pytest.raises(DataError, match=message):
        replace(quality(), **change)


def test_they_are_stored_with_the_trial(result, tmp_path):
    result.write(tmp_path / "a.parquet")
    back = TrialResult.read(tmp_path / "a.parquet")
    assert list(back.pseudo_masks) == ["cam"]
    assert equal(back.pseudo_masks["cam"], result.pseudo_masks["cam"])
    with pytest.raises(DataError, match="pseudo-masks of other classes"):
        replace(result, pseudo_masks={"cam": PseudoQuality(("a",), np.ones((1, 2, 2), np.int64), 4, 1)})


def test_files_without_them_are_still_read(result, tmp_path):
    result.write(tmp_path / "new.parquet")
    replace(result, pseudo_masks={}).write(tmp_path / "none.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    meta = json.loads(table.schema.metadata[b"tissuebench"])
    assert meta.pop("pseudo_masks").keys() == {"cam"}
    older = json.loads(pq.read_schema(tmp_path / "none.parquet").metadata[b"tissuebench"])
    assert older == meta  # nothing is written where there is nothing to write
    assert TrialResult.read(tmp_path / "none.parquet").pseudo_masks == {}


@pytest.mark.parametrize("garbage", [[], {"cam": {}}, {"cam": {**quality().to_json(), "counts": [[[0.5]]]}}])
def test_garbage_in_their_place_is_named(result, tmp_path, garbage):
    path = tmp_path / "a.parquet"
    result.write(path)
    table = pq.read_table(path)
    meta = {**json.loads(table.schema.metadata[b"tissuebench"]), "pseudo_masks": garbage}
    pq.write_table(table.replace_schema_metadata({b"tissuebench": json.dumps(meta).encode()}), path)
    with pytest.raises(DataError, match="not a usable result"):
        TrialResult.read(path)


def test_rows_for_machines_stand_after_the_scores_of_their_cell(cells):
    plain = build([replace(one, pseudo_masks={}) for one in cells])
    board = build(cells)
    extra = [row for row in board.rows if row.metric.startswith("pseudo_")]
    assert tuple(row for row in board.rows if row not in extra) == plain.rows
    assert not plain.pseudo
    assert tuple(extra) == board.rows[-4:]  # "mine" is the last cell
    got = {row["metric"]: row for row in json.loads(to_json(board.rows)) if row["metric"].startswith("pseudo_")}
    names = ["pseudo_miou/sure", "pseudo_coverage/sure", f"pseudo_miou/{ODD}", f"pseudo_coverage/{ODD}"]
    assert list(got) == names
    mean = (1 / 3 + 30 / 70 + 40 / 60) / 3
    assert [got[name]["mean"] for name in names] == pytest.approx([mean, 1.0, 1 / 3, 0.8 / 3])
    for row in got.values():
        assert (row["method"], row["budget"], row["minutes"]) == ("mine", "masks:3p", 24.0)
        assert (row["n_seeds"], row["n_replicates"], row["n_patients"]) == (3, 1, 0)
        assert not row["tie"]
        assert {row[name] for name in ("low", "high", "diff", "diff_low", "diff_high", "diff_to")} == {None}
    read = list(csv.DictReader(io.StringIO(leaderboard_csv(board.rows))))
    assert [row["metric"] for row in read][-4:] == names


def test_the_order_of_results_changes_nothing(cells):
    assert build(cells[::-1]) == build(cells)


def test_lowest_and_highest_are_of_trials_that_cover_something(cells):
    sure, odd = build(cells).pseudo
    assert (sure.lowest, sure.highest) == pytest.approx((1 / 3, 40 / 60))
    assert (odd.miou, odd.lowest, odd.highest, odd.coverage) == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0.8 / 3))
    for one in cells:
        if one.pseudo_masks:
            one.pseudo_masks["cam"].counts[1] = 0
    _, odd = build(cells).pseudo
    assert (odd.miou, odd.lowest, odd.highest, odd.coverage) == (None, None, None, 0.0)
    assert "–   .000" in re.sub(r" {3,}", "   ", printed(build(cells)))


def test_a_gap_has_no_numbers_here_either(cells):
    board = build(cells, expected=[CellKey("toy", "mine", "masks:3p", 4)])
    assert not board.pseudo
    assert not [row for row in board.rows if row.metric.startswith("pseudo_")]


def test_the_table_fits_100_columns_and_says_what_it_is(cells):
    text = printed(build(cells))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    (start,) = [number for number, line in enumerate(lines) if line.startswith("toy: pseudo-masks of training tiles")]
    assert lines[start].endswith("against withheld masks (diagnostic, nothing is trained on it)")
    assert lines[start + 1].split() == [
        "method",
        "budget",
        "layer",
        "mIoU",
        "(lowest",
        "to",
        "highest",
        "run)",
        "coverage",
        "runs",
    ]
    assert lines[start + 2].split() == ["mine", "masks:3p", "sure", ".476", "(.333", "to", ".667)", "1.000", "1x3"]
    assert "[red]" in text  # names are no markup
    assert "diagnostic" not in printed(build([replace(one, pseudo_masks={}) for one in cells]))


def test_long_names_are_folded_and_an_old_terminal_gets_letters_it_knows(make_trial):
    name = "multilayer_pseudo[" + ",".join(f"option_{i}=1" for i in range(12)) + "]"
    layers = ("a layer of a long and telling name " * 3, "b")
    one = replace(make_trial(name, rng=np.random.default_rng(0)), pseudo_masks={"cam": quality(layers=layers)})
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    render(build([one]), Console(file=out, width=100))
    out.flush()
    lines = raw.getvalue().decode().splitlines()
    assert max(map(len, lines)) <= 100
    told = "".join("".join(lines).split())
    assert "telling" in told
    assert ".429" in told
