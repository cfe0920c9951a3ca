"""Dice by class: one panel per class, one line per method."""

from __future__ import annotations

from matplotlib.patches import Rectangle
from matplotlib.transforms import IdentityTransform

from tissuebench.results.report.figures.parts import interval, numbers, record, scores_across, span
from tissuebench.results.report.figures.sheet import LARGE, SMALL, Margins, Sheet
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import INK, SOFT, brief
from tissuebench.results.report.view import View

MOST = 24
_ROW = 17.0


def classes(view: View, budget: str, number: int) -> list[Picture]:
    """Draw the Dice of each class at a budget; empty without cells."""
    cells = view.with_full(budget)
    if not cells:
        return []
    shown = view.classes[:MOST]
    labels = [f"Dice of {name}" for name in shown]
    sheet = Sheet(labels, (348, 40 + _ROW * len(cells) + 36), Margins(176, 40, 14, 36), 3)
    rows = [[cell.row(f"dice/{name}") for cell in cells] for name in shown]
    ends = span([value for of in rows for row in of if row is not None for value in numbers(row)], within=(0.0, 1.0))
    records: list[Record] = []
    for i, (panel, name) in enumerate(zip(sheet.panels, shown, strict=True)):
        color = tuple(part / 255 for part in view.colors[i])
        panel.ax.add_patch(
            Rectangle(
                (panel.x + 1, panel.y - 17), 12, 12, transform=IdentityTransform(), facecolor=color, edgecolor=SOFT,
                linewidth=0.6, clip_on=False,
            )
        )  # fmt: skip
        panel.text(20, 16, brief(name, 40), size=LARGE, bold=True)
        panel.text(20, 30, f"{100 * view.shares[i]:.2g} % of annotated test pixels", size=SMALL, color=SOFT)
        panel.ax.set_ylim(len(cells) - 0.5, -0.5)
        scores_across(panel, ends, "Dice", 6)
        for j, (cell, row) in enumerate(zip(cells, rows[i], strict=True)):
            style = view.styles[cell.method]
            panel.text(168, 40 + _ROW * (j + 0.5) + 4, style.name, size=10, color=INK, side="right")
            if row is not None:
                interval(panel.ax, j, numbers(row), style)
                records.append(record(row))
    left_out = len(view.classes) - len(shown)
    return [
        sheet.picture(
            f"{view.slug}-classes-{number}",
            f"{view.title}: Dice by class at {budget}",
            "Pooled over patients, with 95 % intervals; methods in the order of their mIoU."
            + (f" {left_out} more classes are in the data of the figure's table only." if left_out else ""),
            records,
        )
    ]
