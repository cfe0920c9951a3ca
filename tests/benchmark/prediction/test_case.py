"""The diagnosis of a slide by its areas."""

from __future__ import annotations

import numpy as np
import pytest

from tissuebench.datasets.types import ClassMap
from tissuebench.prediction.case import call_case

COLORS = ((240, 240, 240), (200, 100, 150), (90, 20, 120), (20, 90, 120))
NAMES = ("glass", "stroma", "tumour_a", "tumour_b")
CLASSES = ClassMap(NAMES, COLORS, {"A": ("tumour_a",), "B": ("tumour_b",)})


@pytest.mark.parametrize(
    ("pixels", "called", "shares", "sentence"),
    [
        ((0, 500, 30, 10), ("A",), (0.75, 0.25), "A"),  # stroma says nothing
        ((0, 500, 0, 1), ("B",), (0.0, 1.0), "B"),
        ((9, 0, 20, 20), ("A", "B"), (0.5, 0.5), "tie: A; B"),
        ((9, 9, 0, 0), ("A", "B"), (0.5, 0.5), "tie: A; B"),
    ],
)
def test_the_largest_area_calls_and_ties_are_said(pixels, called, shares, sentence):
    call = call_case(np.array(pixels), CLASSES)
    assert (call.called, tuple(call.shares.values()), call.sentence) == (called, shares, sentence)
    assert call.document() == {"call": sentence, "called": list(called), "shares": dict(zip("AB", shares, strict=True))}


def test_a_diagnosis_that_allows_more_is_told_apart_by_what_only_it_has():
    wide = ClassMap(NAMES, COLORS, {"A": ("tumour_a",), "mixed": ("tumour_a", "tumour_b")})
    assert call_case(np.array([0, 0, 40, 1]), wide).called == ("mixed",)
    assert call_case(np.array([0, 0, 40, 0]), wide).called == ("A", "mixed")


def test_without_two_diagnoses_there_is_nothing_to_call():
    assert call_case(np.array([1, 2, 3, 4]), ClassMap(NAMES, COLORS)) is None
    assert call_case(np.array([1, 2, 3, 4]), ClassMap(NAMES, COLORS, {"A": ("tumour_a",)})) is None
