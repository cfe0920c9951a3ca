"""One report for all tests that only style at it."""

from __future__ import annotations

import pytest

from tests.results.report.drawing import quick_pdf
from tests.results.report.realistic import METHODS, subjects
from tissuebench.results.report import write_report

FEW = (
    "supervised",
    "complementary",
    "anatomical_contrast[decay=0.95,global_training.steps=20000,temperature=0.1]",
    "diffusion_published",
)


@pytest.fixture(scope="session")
def few_subjects(tmp_path_factory):
    """Two data sets, five methods, a gap, a failure, names with tags in them."""
    return subjects(tmp_path_factory.mktemp("pictures"), methods={name: METHODS[name] for name in FEW}, n_patients=8)


@pytest.fixture(scope="session")
def report(few_subjects, tmp_path_factory):
    """The ``index.html`` of a whole report."""
    with pytest.MonkeyPatch.context() as patch:
        quick_pdf(patch)
        return write_report(tmp_path_factory.mktemp("report") / "report", few_subjects)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """One data set without pictures, three methods: quick to draw."""
    names = ("supervised", "complementary", "diffusion_published")
    return subjects(
        tmp_path_factory.mktemp("none"), methods={name: METHODS[name] for name in names}, n_patients=5,
        datasets=("glands",), pictures=False,
    )  # fmt: skip
