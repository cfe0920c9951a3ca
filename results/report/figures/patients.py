"""Scores of individual patients, hardest first: one panel per method, with its control."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.collections import LineCollection

from tissuebench.results.render.terminal import signed
from tissuebench.results.report.figures.curves import MOST
from tissuebench.results.report.figures.parts import scores_across, span
from tissuebench.results.report.figures.sheet import Margins, Sheet
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import LINE, SOFT, brief
from tissuebench.results.report.view import CellView, View, patient_means
from tissuebench.results.tables.leaderboard import LOWER

_NAMED = 30


def patients(view: View, budget: str, number: int) -> list[Picture]:
    """Draw the scores of patients at a budget; empty without cells."""
    cells = view.with_full(budget)[:MOST]
    if not cells:
        return []
    n = len(view.patients)
    row = max(13.0 if n <= _NAMED else 400 / n, 2.0)
    named = n <= _NAMED
    sheet = Sheet(
        [f"{view.styles[cell.method].name}: score of each patient" for cell in cells],
        (252, 42 + row * n + 36),
        Margins(76 if named else 30, 42, 14, 36),
        3,
    )
    control = next((cell for cell in cells if cell.method == LOWER), None)
    ends = span([float(value) for cell in cells for value in cell.own.ravel()], within=(0.0, 1.0))
    records: list[Record] = []
    for panel, cell in zip(sheet.panels, cells, strict=True):
        style, means = view.styles[cell.method], patient_means(cell)
        panel.head(style, _beside(cell, control))
        panel.ax.set_ylim(n - 0.5, -0.5)
        scores_across(panel, ends, "mIoU of the patient")
        if named:
            panel.y_ticks(range(n), [brief(name, 11) for name in view.patients], rules=False)
        else:
            panel.y_ticks([0, n - 1], ["1", str(n)], rules=False)
        low, high = (_over_runs(cell, which) for which in (np.fmin, np.fmax))
        lines = [[(low[i], i), (high[i], i)] for i in range(n) if not math.isnan(means[i])]
        panel.ax.add_collection(LineCollection(lines, colors=style.color, linewidths=1.6, alpha=0.5), autolim=False)
        if control is not None and cell is not control:
            base = patient_means(control)
            gaps = [[(base[i], i), (means[i], i)] for i in range(n) if not math.isnan(base[i] + means[i])]
            panel.ax.add_collection(
                LineCollection(gaps, colors=LINE, linewidths=min(4.0, row / 2), zorder=0.5), autolim=False
            )
            panel.ax.plot(
                base,
                range(n),
                marker="|",
                markersize=min(9.0, row),
                markeredgewidth=1.6,
                color=SOFT,
                linestyle="none",
                zorder=2,
            )
        panel.ax.plot(
            means,
            range(n),
            marker=style.marker,
            markersize=min(6.5, row),
            markeredgewidth=0,
            color=style.color,
            linestyle="none",
            zorder=3,
        )
        for patient, mean, least, most in zip(view.patients, means, low, high, strict=True):
            values = [None if math.isnan(value) else float(value) for value in (mean, least, most)]
            records.append(
                {
                    "dataset": view.subject.dataset,
                    "method": cell.method,
                    "budget": cell.budget,
                    "patient": patient,
                    "miou": values[0],
                    "lowest_run": values[1],
                    "highest_run": values[2],
                }
            )
    more = len(view.with_full(budget)) - len(cells)
    return [
        sheet.picture(
            f"{view.slug}-patients-{number}",
            f"{view.title}: score of each patient at {budget}",
            "Patients from the hardest (top) to the easiest, by their mean over all methods and budgets. Mark: "
            "mean over runs; "
            f"line: lowest to highest run; grey bar: {LOWER} on the same patient. Methods in the order of their mIoU."
            + (f" {more} more methods are not shown here." if more else ""),
            records,
        )
    ]


def _beside(cell: CellView, control: CellView | None) -> str:
    if control is None or cell is control:
        return f"{cell.budget}"
    gain = patient_means(cell) - patient_means(control)
    there = gain[~np.isnan(gain)]
    if not there.size:
        return f"{cell.budget}"
    return f"better on {int((there > 0).sum())} of {there.size}, median {signed(float(np.median(there)))}"


def _over_runs(cell: CellView, which: np.ufunc) -> np.ndarray:
    return np.asarray(which.reduce(cell.own, axis=1), dtype=np.float64)
