"""One report for all tests that only look at it."""

from __future__ import annotations

import pytest

from tests.results.report.realistic import METHODS, subjects
from tissuebench.results.report import write_report
from tissuebench.results.report.styles import looks
from tissuebench.results.report.view import view

FEW = (
    "supervised",
    "complementary",
    "anatomical_contrast[decay=0.95,global_steps=20000,temperature=0.1]",
    "diffusion_published",
)


@pytest.fixture(scope="session")
def few_subjects(tmp_path_factory):
    """Two data sets, five methods, a gap, a failure, names with tags in them."""
    return subjects(
        tmp_path_factory.mktemp("pictures"), methods={name: METHODS[name] for name in FEW}, n_patients=8, n_boot=60
    )


@pytest.fixture(scope="session")
def report(few_subjects, tmp_path_factory):
    """The ``index.html`` of a whole report."""
    with pytest.MonkeyPatch.context() as patch:
        quick_pdf(patch)
        return write_report(tmp_path_factory.mktemp("report") / "report", few_subjects, n_boot=60)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """One data set without pictures, three methods: quick to draw."""
    names = ("supervised", "complementary", "diffusion_published")
    return subjects(
        tmp_path_factory.mktemp("none"), methods={name: METHODS[name] for name in names}, n_patients=5, n_boot=40,
        datasets=("glands",), pictures=False,
    )  # fmt: skip


def quick_pdf(patch):
    """Outlines in place of a font: most of the time of drawing goes into the fonts of the PDFs."""
    from tissuebench.results.report.figures import sheet

    patch.setitem(sheet._STYLE, "pdf.fonttype", 3)


def lined_up(subject):
    """The view of a subject, as the report makes it."""
    arms = {row.method for row in subject.board.rows}
    return view(subject, "d0", subject.dataset, looks(sorted(arms)))
