"""Curves of trainings: what is drawn, in which panel, and how runs of a method are put together."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import numpy as np

from tests.results.report.drawing import lined_up, quick_pdf
from tissuebench.results.report.figures.learning import Learned, learning, learning_sheet, shown_metrics
from tissuebench.results.report.figures.sheet import drawing
from tissuebench.results.report.page import build
from tissuebench.results.report.styles import method_styles


def line(first, last, n=200):
    return tuple((step, first + (last - first) * step / n) for step in range(1, n + 1))


def curves(shift=0.0):
    return {
        "train/loss": line(2 + shift, 1 + shift),
        "train/rate": line(0, 1),
        "loss/contrast": line(0.5, 0.1),
        "val/miou": ((100, 0.3 + shift), (200, 0.5 + shift)),
        "selection/miou": ((200, 0.4),),
    }


def with_curves(subject, of=curves):
    return replace(subject, curves={one.trial_id: of(0.01 * i) for i, one in enumerate(subject.results)})


def lines_of(sheet, panel):
    """The drawn lines, without the mark at their ends and the grid."""
    return [one.get_xydata() for one in sheet.panels[panel].ax.get_lines() if one.get_linestyle() != "None"]


def test_the_loss_comes_first_then_its_parts_then_validation_then_earlier_stages():
    staged = {"first: val/miou": line(0, 1), "first: train/loss": line(1, 0), "first: train/waiting": line(0, 0)}
    assert shown_metrics([Learned("a", "mine", {**staged, **curves(), "empty": ()})]) == [
        "train/loss",
        "loss/contrast",
        "val/miou",
        "selection/miou",
        "first: train/loss",
        "first: val/miou",
    ]


def test_each_training_is_a_line_in_the_colour_of_its_method():
    trainings = [Learned(str(i), "ab"[i // 2], curves(i)) for i in range(4)]
    styles = method_styles(["a", "b"])
    with drawing():
        sheet = learning_sheet(trainings, styles)
    assert len(lines_of(sheet, 0)) == 4
    colors = [one.get_color() for one in sheet.panels[0].ax.get_lines() if one.get_linestyle() != "None"]
    assert colors == [styles["a"].color] * 2 + [styles["b"].color] * 2
    first = lines_of(sheet, 0)[0]
    assert len(first) <= 61 and np.allclose(first[:, 1], 2 - first[:, 0] / 200)  # means of a straight line lie on it
    assert np.allclose(lines_of(sheet, 2)[0], [(100, 0.3), (200, 0.5)])  # few points stay where they are


def test_runs_of_a_method_become_their_mean_and_what_is_not_finite_is_left_out():
    odd = {**curves(2), "val/miou": ((100, math.nan), (200, 2.5))}
    trainings = [Learned("a", "mine", curves()), Learned("b", "mine", odd)]
    with drawing():
        sheet = learning_sheet(trainings, method_styles(["mine"]), together=True)
    (loss,) = lines_of(sheet, 0)
    assert np.allclose(loss[:, 1], 3 - loss[:, 0] / 200)
    (miou,) = lines_of(sheet, 2)
    assert np.allclose(miou, [(100, 0.3), (200, 1.5)])


def test_nothing_logged_gives_no_figure(small):
    with drawing():
        assert learning(lined_up(small[0]), "masks:1p", 0) == []
        assert learning_sheet([Learned("a", "mine", {"train/rate": line(0, 1)})], method_styles(["mine"])) is None


def test_the_report_has_the_figure_at_each_budget_and_its_data(small, monkeypatch):
    quick_pdf(monkeypatch)
    subject = with_curves(small[0])
    view = lined_up(subject)
    budget = view.budgets[0][0]
    with drawing():
        (picture,) = learning(view, budget, 0)
    rows = list(csv.DictReader(io.StringIO(picture.csv.decode())))
    shown = {
        one.trial_id for one in subject.results if one.budget in (budget, "masks:all") and one.method in view.styles
    }
    assert {row["trial"] for row in rows} == shown
    assert {row["metric"] for row in rows} == {"train/loss", "loss/contrast", "val/miou", "selection/miou"}
    files = build([subject], "title")
    assert sum(name.startswith("figures/d0-learning-") and name.endswith(".svg") for name in files) == len(view.budgets)
    assert b"How they learned" in files["index.html"]
    assert b"How they learned" not in build([small[0]], "title")["index.html"]
