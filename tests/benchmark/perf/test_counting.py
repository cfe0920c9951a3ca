"""The benchmark of counting: the plain ways do what they say, and count alike. No test here has a stopwatch."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tests.benchmark.evaluation.test_evaluate import ByColour
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.evaluate import evaluate
from tissuebench.perf.counting import Nearest, all_of_it, draw, measure, one_after_the_other
from tissuebench.plans.schema import EvaluationSettings

CPU = torch.device("cpu")


class Colours(ByColour):
    """Names the threads that there are while it predicts."""

    def __init__(self):
        super().__init__()
        self.threads = set()

    def predict(self, images):
        self.threads |= {thread.name.split("_")[0] for thread in threading.enumerate()}
        return super().predict(images)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn"), 800)


def score(drawn, method, part):
    store, split = drawn
    view = LabelView.for_evaluation(store, split, part)
    return evaluate(method, store, view, EvaluationSettings(window_px=64), CPU, "32-true")


def test_one_percent_of_the_sparse_slide_is_annotated_and_all_of_the_others(drawn):
    store, split = drawn
    (sparse,) = LabelView.for_evaluation(store, split, "test").slides
    assert sum(store.withheld.class_pixels(sparse.slide_id)) == 0.01 * sparse.height * sparse.width
    for slide in LabelView.for_evaluation(store, split, "val").slides:
        mask = store.withheld.mask(slide.slide_id, 0, 0, slide.height, slide.width)
        assert slide.height == 100 and (mask != IGNORE_LABEL).all()


def test_the_plain_ways_use_no_thread_and_write_everything(drawn, monkeypatch):
    written, write = [], LabelCanvas.write
    monkeypatch.setattr(
        LabelCanvas, "write", lambda own, labels, y, x: (written.append(labels.size), write(own, labels, y, x))
    )
    method, plain = Colours(), Colours()
    score(drawn, method, "val")
    with one_after_the_other():
        score(drawn, plain, "val")
    assert {"reading-ahead", "background"} <= method.threads
    assert not {"reading-ahead", "background"} & plain.threads
    sizes = []
    for way in (None, all_of_it()):
        written.clear()
        if way is None:
            score(drawn, Colours(), "test")
        else:
            with way:
                score(drawn, Colours(), "test")
        sizes.append(sum(written))
    assert sizes[0] < sizes[1] / 4 and sizes[1] == 800 * 800


def test_the_quick_method_is_right(drawn):
    (row,) = score(drawn, Nearest(CPU), "test")
    assert np.array_equal(row.counts, np.diag(np.diag(row.counts))) and row.counts.sum() == 6400


def test_all_ways_count_alike(drawn, display):
    lines = measure(partial(score, drawn, Colours()), CPU, 1, display)
    assert [line.value > 0 for line in lines] == [True] * 4
    assert "numpy to with torch (cpu)" in lines[0].name
    assert lines[-1].value == 1.0 and lines[-1].holds


def test_a_difference_is_seen(drawn, display):
    calls = []

    def other_each_time(part):
        rows = score(drawn, Colours(), part)
        calls.append(part)
        return [*rows[:-1], replace(rows[-1], counts=np.full((4, 4), len(calls)))]

    assert measure(other_each_time, CPU, 1, display)[-1].holds is False
