"""The report: one folder of plain HTML that works offline, with figures as PDF and SVG and their data as CSV."""

from tissuebench.results.report.subject import Subject
from tissuebench.results.report.write import write_report

__all__ = ["Subject", "write_report"]
