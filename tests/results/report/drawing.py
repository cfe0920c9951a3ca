"""Views of a subject as the report makes them, and quick PDFs."""

from __future__ import annotations

from tissuebench.results.report.styles import method_styles
from tissuebench.results.report.view import view


def quick_pdf(patch):
    """Outlines in place of a font: most of the time of drawing goes into the fonts of the PDFs."""
    from tissuebench.results.report.figures import sheet

    patch.setitem(sheet._STYLE, "pdf.fonttype", 3)


def lined_up(subject):
    """The view of a subject, as the report makes it."""
    arms = {row.method for row in subject.board.rows}
    return view(subject, "d0", subject.dataset, method_styles(sorted(arms)))
