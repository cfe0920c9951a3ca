"""The drawings: places, fronts, escaping, the same bytes twice, and the numbers in them."""

from __future__ import annotations

import csv
import io
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.results.report.drawing import lined_up
from tests.results.report.realistic import HOSTILE
from tissuebench.results.report.figures.calibration import calibration
from tissuebench.results.report.figures.classes import classes
from tissuebench.results.report.figures.confusion import confusion
from tissuebench.results.report.figures.curves import curves
from tissuebench.results.report.figures.forest import forest
from tissuebench.results.report.figures.pareto import front, pareto
from tissuebench.results.report.figures.patients import patients
from tissuebench.results.report.figures.sheet import drawing, spread, steps


def rows_of(picture):
    return list(csv.DictReader(io.StringIO(picture.csv.decode())))


@pytest.fixture(scope="module")
def shown(small):
    return lined_up(small[0])


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0.32, 0.81, 5, [0.4, 0.5, 0.6, 0.7, 0.8]),
        (-0.1, 0.13, 5, [-0.1, -0.05, 0.0, 0.05, 0.1]),
        (0.0, 1.0, 6, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.5, 0.5, 4, [0.5]),
    ],
)
def test_steps_are_round(low, high, most, expected):
    assert steps(low, high, most) == pytest.approx(expected)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_labels_are_spread_in_their_order_and_do_not_overlap(wanted):
    places = spread(wanted, 15.0, -100.0, 200.0)
    assert all(-100.001 <= place <= 200.001 for place in places)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(places[b] - places[a] >= 15 - 1e-6 for a, b in itertools.pairwise(order))


def test_a_label_with_room_stays():
    assert spread([10, 50, 90], 15, 0, 100) == [10, 50, 90]


def test_front():
    assert front([(1, 0.5), (1, 0.6), (2, 0.55), (3, 0.7), (4, 0.7)]) == [1, 3]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_nothing_on_the_front_is_dominated_and_the_rest_is(points):
    on = {points[i] for i in front(points)}

    def beaten(point):
        return any(o[0] <= point[0] and o[1] >= point[1] and o != point for o in points)

    assert all(not beaten(point) for point in on)
    assert all(beaten(point) or point in on for point in points)


def all_of(view):
    with drawing():
        return [
            *curves(view),
            *forest(view, {("complementary", "masks:3p"): 0.0301}),
            *(p for f in (classes, patients, confusion, calibration) for p in f(view, "masks:25%", 1)),
            *pareto(view),
        ]


def test_the_same_bytes_twice_and_names_stay_text(shown):
    once, twice = all_of(shown), all_of(shown)
    for a, b in zip(once, twice, strict=True):
        assert (a.svg, a.pdf, a.csv, a.panels) == (b.svg, b.pdf, b.csv, b.panels)
        assert b"<script" not in a.svg
        assert not any("<script" in panel for panel in a.panels)
        assert re.fullmatch(r"d0-[a-z]+(-\d+)?", a.name)
        ElementTree.fromstring(a.svg)
    texts = [text for p in once for panel in p.panels for text in ElementTree.fromstring(panel).itertext()]
    assert HOSTILE in texts  # not set as mathematics, not shortened, not dropped
    ids = [i for p in once for panel in p.panels for i in re.findall(r' id="([^"]+)"', panel)]
    assert len(ids) == len(set(ids)) > 0
    used = [i for p in once for panel in p.panels for i in re.findall(r'(?:href="|url\()#([\w-]+)', panel)]
    assert set(used) == set(ids)


def test_figures_follow_the_theme_of_the_page(shown):
    with drawing():
        (one,) = forest(shown, {})
    assert "var(--ink)" in one.panels[0]
    assert "#1d1c22" not in one.panels[0]
    assert b"#1d1c22" in one.svg  # the file stands alone


def test_differences_are_those_of_the_leaderboard(shown):
    with drawing():
        (one,) = forest(shown, {("complementary", "masks:3p"): 0.0301})
    rows = [row for row in rows_of(one) if (row["method"], row["budget"]) == ("complementary", "masks:3p")]
    board = shown.cells["complementary", "masks:3p"].rows["miou"]
    assert [float(rows[0][name]) for name in ("difference", "low", "high", "p_holm")] == [
        board.diff, board.diff_low, board.diff_high, 0.0301,
    ]  # fmt: skip
    text = " ".join(ElementTree.fromstring(one.panels[0]).itertext())
    assert "p = .030" in text


def test_confusion_rows_are_shares_of_the_truth(shown):
    with drawing():
        (one,) = confusion(shown, "masks:3p", 0)
    rows = [row for row in rows_of(one) if row["method"] == "supervised"]
    shares = np.array([float(row["share_of_truth"]) for row in rows]).reshape(6, 6)
    assert shares.sum(1) == pytest.approx(np.ones(6))
    counts = sum(r.counts.sum(0) for r in shown.subject.results if (r.method, r.budget) == ("supervised", "masks:3p"))
    assert [int(row["pixels"]) for row in rows] == counts.ravel().tolist()


def test_reliability_gives_back_the_ece_of_one_run(make_trial, rng=None):
    rng = np.random.default_rng(0)
    from tissuebench.results.report.subject import Subject
    from tissuebench.results.tables.leaderboard import build

    trial = make_trial(rng=rng)
    view = lined_up(Subject("toy", build([trial]), [trial], [], {}, {}))
    with drawing():
        (one,) = calibration(view, "masks:3p", 0)
    rows = [row for row in rows_of(one) if row["confidence"]]
    pixels = np.array([float(row["pixels"]) for row in rows])
    gap = np.array([abs(float(row["confidence"]) - float(row["accuracy"])) for row in rows])
    assert (pixels * gap).sum() / pixels.sum() == pytest.approx(view.cells["supervised", "masks:3p"].rows["ece"].mean)


def test_patients_are_in_one_order_the_hardest_first(shown):
    with drawing():
        (one,) = patients(shown, "masks:3p", 0)
    rows = rows_of(one)
    order = [row["patient"] for row in rows if row["method"] == "supervised"]
    assert order == list(shown.patients)
    means = {p: np.mean([c.own[i].mean() for c in shown.cells.values()]) for i, p in enumerate(shown.patients)}
    assert sorted(means, key=means.get) == order


def test_gaps_are_not_drawn(shown):
    assert ("diffusion_published", "masks:50%") not in shown.cells
    with drawing():
        (one,) = classes(shown, "masks:50%", 2)
    assert {row["method"] for row in rows_of(one)} == {"supervised", "complementary", "full"}


def test_one_budget_has_no_curve(make_trial):
    from tissuebench.results.report.subject import Subject
    from tissuebench.results.tables.leaderboard import build

    trial = make_trial(rng=np.random.default_rng(0))
    view = lined_up(Subject("toy", build([trial]), [trial], [], {}, {}))
    assert curves(view) == []
    assert pareto(view) == []
    assert forest(view, {}) == []
