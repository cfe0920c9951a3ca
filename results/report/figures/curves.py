"""Score over annotation minutes: all methods in one panel, then each with its band next to its control."""

from __future__ import annotations

from matplotlib.axes import Axes

from tissuebench.results.render.terminal import short
from tissuebench.results.report.figures.parts import (
    budget_ticks,
    label_ends,
    log_place,
    numbers,
    record,
    scores_up,
    span,
)
from tissuebench.results.report.figures.sheet import FigurePanel, Margins, Sheet
from tissuebench.results.report.picture import Picture
from tissuebench.results.report.styles import INK, LINE, SOFT
from tissuebench.results.report.view import CellView, View
from tissuebench.results.tables.leaderboard import LOWER, UPPER

MOST = 20
"""Maximum number of panels of one figure, as nobody would read more."""


def curves(view: View) -> list[Picture]:
    """Draw the curves together and apart; empty if no method has two budgets."""
    lines = _lines(view)
    if not any(len(line) > 1 for line in lines.values()):
        return []
    return [_together(view, lines), *_apart(view, lines)]


def _lines(view: View) -> dict[str, list[CellView]]:
    lines: dict[str, list[CellView]] = {}
    for cell in view.cells.values():
        if cell.method != UPPER and cell.row() is not None:
            lines.setdefault(cell.method, []).append(cell)
    return {method: sorted(cells, key=lambda cell: cell.minutes) for method, cells in lines.items()}


def _together(view: View, lines: dict[str, list[CellView]]) -> Picture:
    sheet = Sheet(
        [f"score over minutes, {view.title}"], (760, max(400, 60 + 15 * len(lines))), Margins(48, 14, 232, 44), 1
    )
    panel = sheet.panels[0]
    smallest = _axes(view, panel, named=True)
    few = len(lines) <= 4
    ends = []
    for method, cells in lines.items():
        style = view.styles[method]
        x = [log_place(cell.minutes, smallest) for cell in cells]
        y = [numbers(row) for cell in cells if (row := cell.row()) is not None]
        width = 1.6 if method == LOWER else 2.0
        panel.ax.plot(x, [one[0] for one in y], color=style.color, linewidth=width, linestyle=style.dash, zorder=2)
        panel.ax.plot(
            x,
            [one[0] for one in y],
            color=style.color,
            marker=style.marker,
            markersize=7,
            markeredgewidth=0,
            linestyle="none",
            zorder=3,
        )
        if few:
            panel.ax.fill_between(
                x, [one[1] for one in y], [one[2] for one in y], color=style.color, alpha=0.13, linewidth=0
            )
        at = panel.ax.transData.transform((x[-1], y[-1][0]))
        ends.append(((float(at[0]), float(at[1])), style, f"  {short(y[-1][0])}"))
    if view.full is not None and (row := view.full.row()) is not None:
        _reference(panel.ax, row.mean or 0.0)
        box = panel.ax.get_window_extent()
        height = float(panel.ax.transData.transform((0, row.mean or 0.0))[1])
        ends.append(((box.x1 - 4, height), view.styles[UPPER], f"  {short(row.mean or 0.0)}"))
    label_ends(panel, ends)
    told = "Bands are 95 % intervals." if few else "Intervals are in the panels below; here they would hide each other."
    return sheet.picture(
        f"{view.slug}-curves",
        f"{view.title}: mIoU over minutes of annotation",
        "Mean over runs at each budget, on a logarithmic axis of minutes; the number after a name is the score "
        "at its largest "
        f"budget. The dotted line is full, trained on all masks. {told}",
        [record(row) for cell in view.cells.values() if (row := cell.row()) is not None],
    )


def _apart(view: View, lines: dict[str, list[CellView]]) -> list[Picture]:
    methods = [method for method in lines if method != LOWER][:MOST]
    if not methods:
        return []
    labels = [f"{view.styles[method].name} over minutes" for method in methods]
    sheet = Sheet(labels, (252, 214), Margins(34, 42, 14, 36), 3)
    for panel, method in zip(sheet.panels, methods, strict=True):
        style, cells = view.styles[method], lines[method]
        panel.head(style, _at_last(view, cells[-1]))
        smallest = _axes(view, panel, named=False)
        for other, its in lines.items():
            if other not in (method, LOWER):
                _line(panel.ax, its, smallest, LINE)
        for shown in (LOWER, method):
            if shown in lines:
                color = SOFT if shown == LOWER else style.color
                _line(panel.ax, lines[shown], smallest, color, band=True, marker=view.styles[shown].marker)
        if view.full is not None and (row := view.full.row()) is not None:
            _reference(panel.ax, row.mean or 0.0)
    more = len(lines) - (LOWER in lines) - len(methods)
    control = (
        f"In grey with squares: {LOWER}, its control; thin grey lines: the other methods; dotted: full."
        if LOWER in lines
        else "Thin grey lines: the other methods; dotted: full."
    )
    rows = [row for cells in lines.values() for cell in cells if (row := cell.row()) is not None]
    return [
        sheet.picture(
            f"{view.slug}-bands",
            f"{view.title}: each method with its 95 % interval",
            control + (f" {more} more methods are left out here; the table has them." if more else ""),
            [record(row) for row in rows],
        )
    ]


def _at_last(view: View, cell: CellView) -> str:
    row = cell.row()
    if row is None or row.diff is None or row.diff_low is None or row.diff_high is None:
        return f"at {cell.budget}"
    sign = "±" if row.diff_low <= 0 <= row.diff_high else "+" if row.diff > 0 else "−"
    words = {"±": "tied with", "+": "above", "−": "below"}[sign]
    return f"{words} {LOWER} at {cell.budget}"


def _axes(view: View, panel: FigurePanel, *, named: bool) -> float:
    """Set up the axes, minutes across and scores up; returns the smallest nonzero minutes."""
    rows = [row for cell in view.cells.values() if (row := cell.row()) is not None]
    smallest = min((cost for _, cost in view.budgets if cost > 0), default=1.0)
    places = [log_place(cell.minutes, smallest) for cell in view.cells.values() if cell.method != UPPER]
    panel.ax.set_xlim(*span(places, 0.07))
    scores_up(panel, span([value for row in rows for value in numbers(row)], within=(0.0, 1.0)))
    budget_ticks(panel, view.budgets, smallest, named=named)
    return smallest


def _line(
    ax: Axes, cells: list[CellView], smallest: float, color: str, *, band: bool = False, marker: str = ""
) -> None:
    x = [log_place(cell.minutes, smallest) for cell in cells]
    y = [numbers(row) for cell in cells if (row := cell.row()) is not None]
    if band:
        ax.fill_between(x, [one[1] for one in y], [one[2] for one in y], color=color, alpha=0.2, linewidth=0, zorder=1)
    ax.plot(
        x, [one[0] for one in y], color=color, linewidth=2.0 if band else 1.1, marker=marker, markersize=6,
        markeredgewidth=0, zorder=3 if band else 1,
    )  # fmt: skip


def _reference(ax: Axes, score: float) -> None:
    ax.axhline(score, color=INK, linewidth=1.1, linestyle=(0, (1, 2)), zorder=1)
