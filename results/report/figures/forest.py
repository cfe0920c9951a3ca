"""Forest plot: paired differences to the control with intervals, one panel per budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tissuebench.results.render.terminal import minutes, signed
from tissuebench.results.report.figures.parts import interval, scores_across, span
from tissuebench.results.report.figures.sheet import LARGE, SMALL, Margins, Sheet
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import INK, SOFT
from tissuebench.results.report.view import CellView, View
from tissuebench.results.tables.leaderboard import LOWER

_ROW = 34.0


def forest(view: View, p_holm: Mapping[tuple[str, str], float | None]) -> list[Picture]:
    """Draw the forest plot; empty if nothing was compared with the control.

    Args:
        view: the subject.
        p_holm: Holm-adjusted p of each (method, budget) against the control.
    """
    budgets = [(name, cost, _compared(view, name)) for name, cost in view.budgets]
    budgets = [budget for budget in budgets if budget[2]]
    if not budgets:
        return []
    most = max(len(cells) for *_, cells in budgets)
    labels = [f"differences to {LOWER} at {name}" for name, *_ in budgets]
    sheet = Sheet(labels, (384, 40 + _ROW * most + 40), Margins(200, 40, 16, 40), 3)
    values = [value for *_, cells in budgets for cell in cells for value in _ends(cell)]
    ends = span([0.0, *values])
    records: list[Record] = []
    for panel, (name, cost, cells) in zip(sheet.panels, budgets, strict=True):
        panel.text(0, 16, name, size=LARGE, bold=True)
        panel.text(0, 30, _minutes(cost, cells), size=SMALL, color=SOFT)
        panel.ax.set_ylim(most - 0.5, -0.5)
        scores_across(panel, ends, f"difference in mIoU to {LOWER}", 6)
        panel.ax.plot([0, 0], [most - 0.5, -0.5], color=INK, linewidth=1.1, zorder=1)
        for i, cell in enumerate(cells):
            style, (diff, low, high) = view.styles[cell.method], _ends(cell)
            interval(panel.ax, i, (diff, low, high), style, filled=not low <= 0 <= high)
            top = 40 + _ROW * i
            p = p_holm.get((cell.method, cell.budget))
            told = "" if p is None else "  p < .001" if p < 0.001 else f"  p = {f'{p:.3f}'.lstrip('0')}"
            panel.text(0, top + 14, style.name, size=11)
            panel.text(0, top + 27, f"{signed(diff)} [{signed(low)}, {signed(high)}]{told}", size=9.5, color=SOFT)
            records.append(
                {
                    "dataset": view.subject.dataset,
                    "method": cell.method,
                    "budget": name,
                    "difference": diff,
                    "low": low,
                    "high": high,
                    "p_holm": p,
                }
            )
    return [
        sheet.picture(
            f"{view.slug}-differences",
            f"{view.title}: what each method adds to the same labels",
            f"Paired difference in mIoU to {LOWER} (the same draws, seeds and patients) and its 95 % interval. "
            "Hollow: the interval covers 0, so the two are not told apart even if nothing else is compared. p: from "
            "the distribution of the interval, adjusted over all pairs of methods at the budget (Holm).",
            records,
        )
    ]


def _compared(view: View, budget: str) -> list[CellView]:
    cells = [cell for cell in view.at(budget) if (row := cell.row()) is not None and row.diff is not None]
    return sorted(cells, key=lambda cell: -_ends(cell)[0])


def _ends(cell: CellView) -> tuple[float, float, float]:
    row = cell.row()
    if row is None or row.diff is None:
        return 0.0, 0.0, 0.0
    return (
        row.diff,
        row.diff if row.diff_low is None else row.diff_low,
        row.diff if row.diff_high is None else row.diff_high,
    )


def _minutes(most: float, cells: Sequence[CellView]) -> str:
    least = min(cell.minutes for cell in cells)
    between = "" if minutes(least, "–") == minutes(most, "–") else f"{minutes(least, '–')} to "
    return f"{between}{minutes(most, '–')} min of annotation"
