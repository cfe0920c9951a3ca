"""The report: one folder of plain HTML that works offline, with every figure as PDF and SVG and its data as CSV."""

from tissuebench.results.report.subject import Subject
from tissuebench.results.report.write import write_report

__all__ = ["Subject", "write_report"]
