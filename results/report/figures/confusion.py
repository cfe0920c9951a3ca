"""Confusion matrices: one matrix per method, one row per true class."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from tissuebench.results.report.figures.curves import MOST
from tissuebench.results.report.figures.sheet import Margins, Sheet
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import BLUE, INK, LINE, PAPER, SOFT, brief
from tissuebench.results.report.view import View

_MOST_CLASSES = 30
_SHADES = 20


def confusion(view: View, budget: str, number: int) -> list[Picture]:
    """Draw the confusion matrices at a budget; empty without cells or with too many classes."""
    cells = view.with_full(budget)[:MOST]
    k = len(view.classes)
    if not cells or k > _MOST_CLASSES:
        return []
    edge = 27.0 if k <= 7 else 22.0 if k <= 12 else 12.0
    left = 118.0
    sheet = Sheet(
        [f"confusion of {view.styles[cell.method].name}" for cell in cells],
        (left + k * edge + 14, 62 + k * edge + 10),
        Margins(left, 62, 14, 10),
        max(1, int(780 // (left + k * edge + 14))),
    )
    records: list[Record] = []
    for panel, cell in zip(sheet.panels, cells, strict=True):
        counts = cell.counts.astype(np.float64)
        total = counts.sum(1, keepdims=True)
        shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
        panel.head(view.styles[cell.method], cell.budget)
        panel.ax.set_xlim(0, k)
        panel.ax.set_ylim(k, 0)
        _squares(panel.ax, shares)
        for i, name in enumerate(view.classes):
            panel.text(left - 6, 62 + (i + 0.5) * edge + 3.5, f"{brief(name, 14)}  {i + 1}", size=9.5, side="right")
            panel.text(left + (i + 0.5) * edge, 56, str(i + 1), size=9.5, color=SOFT, side="center")
            for j in range(k):
                share = shares[i, j]
                if edge > 20 and not np.isnan(share) and round(100 * share) > 0:
                    color = PAPER if share > 0.55 else INK
                    panel.text(
                        left + (j + 0.5) * edge,
                        62 + (i + 0.5) * edge + 3.5,
                        f"{100 * share:.0f}",
                        size=9.5,
                        color=color,
                        side="center",
                    )
                records.append(
                    {
                        "dataset": view.subject.dataset,
                        "method": cell.method,
                        "budget": cell.budget,
                        "truth": name,
                        "predicted": view.classes[j],
                        "pixels": int(cell.counts[i, j]),
                        "share_of_truth": None if np.isnan(share) else float(share),
                    }
                )
    more = len(view.with_full(budget)) - len(cells)
    return [
        sheet.picture(
            f"{view.slug}-confusion-{number}",
            f"{view.title}: confusion at {budget}",
            "Rows are the true class, columns (numbered like the rows) what was predicted; percent of the "
            "pixels of the row, over "
            "all patients and runs. Empty: less than half a percent."
            + (f" {more} more methods are not shown here." if more else ""),
            records,
        )
    ]


def _squares(ax: Axes, shares: np.ndarray) -> None:
    """Draw squares shaded by their share, in a few shades with one collection each."""
    k = len(shares)
    by_shade: dict[int, list[list[tuple[float, float]]]] = {}
    for i in range(k):
        for j in range(k):
            shade = 0 if np.isnan(shares[i, j]) else int(np.ceil(shares[i, j] * _SHADES - 0.5))
            by_shade.setdefault(shade, []).append([(j, i), (j + 1, i), (j + 1, i + 1), (j, i + 1)])
    for shade, squares in sorted(by_shade.items()):
        face = PolyCollection(squares, facecolors=BLUE, edgecolors="none", alpha=shade / _SHADES, closed=True)
        if shade:
            ax.add_collection(face, autolim=False)
        ax.add_collection(
            PolyCollection(squares, facecolors="none", edgecolors=LINE, linewidths=0.5, closed=True), autolim=False
        )
