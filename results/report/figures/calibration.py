"""Reliability diagrams, one panel per method."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection

from tissuebench.results.render.terminal import short
from tissuebench.results.report.figures.curves import MOST
from tissuebench.results.report.figures.sheet import Margins, Sheet
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import LINE, SOFT
from tissuebench.results.report.view import CellView, View

_FEW = 1e-4
"""Share of the pixels below which a bin is not drawn."""
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def calibration(view: View, budget: str, number: int) -> list[Picture]:
    """Draw the reliability diagrams at a budget; empty without calibration counts."""
    every = [cell for cell in view.with_full(budget) if cell.calibration[:, 0].sum() > 0]
    cells = every[:MOST]
    if not cells:
        return []
    sheet = Sheet(
        [f"reliability of {view.styles[cell.method].name}" for cell in cells], (252, 276), Margins(34, 42, 14, 36), 3
    )
    records: list[Record] = []
    for panel, cell in zip(sheet.panels, cells, strict=True):
        pixels, confidence, right = cell.calibration.T
        share = pixels / pixels.sum()
        there = share >= _FEW
        x, y = confidence[there] / pixels[there], right[there] / pixels[there]
        style = view.styles[cell.method]
        panel.head(style, _beside(cell, float((confidence.sum() - right.sum()) / pixels.sum())))
        panel.ax.set_xlim(0, 1)
        panel.ax.set_ylim(0, 1)
        panel.x_ticks(_TICKS, ["0", ".25", ".5", ".75", "1"], "confidence")
        panel.y_ticks(_TICKS, ["0", ".25", ".5", ".75", "1"])
        edges = np.arange(len(share)) / len(share)
        panel.ax.bar(
            edges[there], 0.24 * share[there] / share.max(), width=0.9 / len(share), align="edge", color=LINE, zorder=1
        )
        panel.ax.plot([0, 1], [0, 1], color=SOFT, linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)
        gaps = [[(a, a), (a, b)] for a, b in zip(x, y, strict=True)]
        panel.ax.add_collection(
            LineCollection(gaps, colors=style.color, linewidths=5, alpha=0.25, zorder=1.5), autolim=False
        )
        panel.ax.plot(
            x,
            y,
            color=style.color,
            linewidth=1.8,
            marker=style.marker,
            markersize=5.5,
            markeredgewidth=0,
            zorder=3,
            clip_on=False,
        )
        for i in range(len(share)):
            seen = pixels[i] > 0
            records.append(
                {
                    "dataset": view.subject.dataset,
                    "method": cell.method,
                    "budget": cell.budget,
                    "from": i / len(share),
                    "to": (i + 1) / len(share),
                    "pixels": float(pixels[i]),
                    "confidence": float(confidence[i] / pixels[i]) if seen else None,
                    "accuracy": float(right[i] / pixels[i]) if seen else None,
                }
            )
    more = len(every) - len(cells)
    return [
        sheet.picture(
            f"{view.slug}-calibration-{number}",
            f"{view.title}: calibration at {budget}",
            "Share of pixels that are right (up) by the probability given to the predicted class (across), "
            "pooled over patients and "
            "runs; on the dashed line confidence is what it says, below it the method is too sure of itself. "
            "Bars at the bottom: how "
            "many pixels have that confidence; no mark where they are fewer than one in 10,000."
            + (f" {more} more methods are not shown here." if more else ""),
            records,
        )
    ]


def _beside(cell: CellView, over: float) -> str:
    row = cell.row("ece")
    ece = "" if row is None or row.mean is None else f"ECE {short(row.mean)}, "
    return ece + ("over" if over > 0 else "under") + f"confident by {short(abs(over))}"
