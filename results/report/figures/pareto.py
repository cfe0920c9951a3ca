"""Score against cost in annotation minutes and in compute seconds, with the Pareto front marked."""

from __future__ import annotations

from collections.abc import Sequence

from tissuebench.results.render.terminal import minutes, short
from tissuebench.results.report.figures.parts import label_ends, log_place, numbers, record, scores_up, span
from tissuebench.results.report.figures.sheet import LARGE, SMALL, FigurePanel, Margins, Sheet
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import INK, SOFT
from tissuebench.results.report.view import CellView, View
from tissuebench.results.tables.leaderboard import UPPER

_TIMES = (
    (1, "1 s"), (10, "10 s"), (60, "1 min"), (300, "5 min"), (600, "10 min"), (1800, "30 min"), (3600, "1 h"),
    (7200, "2 h"), (14400, "4 h"), (43200, "12 h"), (86400, "1 d"), (259200, "3 d"), (864000, "10 d"),
)  # fmt: skip


def pareto(view: View) -> list[Picture]:
    """Draw score against both costs; empty without cells."""
    cells = [cell for cell in view.cells.values() if cell.row() is not None]
    if len(cells) < 2:
        return []
    methods = list(dict.fromkeys(cell.method for cell in cells))
    height = max(390.0, 110 + 15.0 * len(methods))
    sheet = Sheet(
        [f"quality against {what}" for what in ("annotation", "compute")], (616, height), Margins(40, 44, 244, 44), 2
    )
    spent = {(cell.method, cell.budget): cell.minutes for cell in cells}
    taken = {(cell.method, cell.budget): took for cell in cells if (took := seconds(cell)) is not None}
    fronts = [
        _draw(view, sheet.panels[0], cells, spent, "minutes of annotation"),
        _draw(view, sheet.panels[1], cells, taken, "wall time of one trial: pre-training and training"),
    ]
    records: list[Record] = [
        {
            **record(row),
            "seconds": taken.get(key),
            "front_minutes": int(key in fronts[0]),
            "front_seconds": int(key in fronts[1]),
        }
        for cell in cells
        if (row := cell.row()) is not None and (key := (cell.method, cell.budget))
    ]
    return [
        sheet.picture(
            f"{view.slug}-pareto",
            f"{view.title}: quality against cost",
            "A mark is a method at a budget; those of one method are joined. Ringed marks on the line are the "
            "front by point "
            "estimate: nothing costs less and scores more. Neighbours on it may be tied; the intervals are in "
            "the table. Seconds "
            "are wall time where the trials ran; a stage that several trials share counts whole for each.",
            records,
        )
    ]


def seconds(cell: CellView) -> float | None:
    """Seconds of training over all stages; None if unknown."""
    took = cell.compute.seconds
    return None if took is None else took + cell.compute.pre_seconds


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points (cost, score), by cost: none as cheap or cheaper scores as much or more."""
    found: list[int] = []
    best = float("-inf")
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            found.append(i)
            best = points[i][1]
    return found


def _draw(
    view: View, panel: FigurePanel, every: Sequence[CellView], cost: dict[tuple[str, str], float], title: str
) -> set[tuple[str, str]]:
    cells = [cell for cell in every if (cell.method, cell.budget) in cost]
    panel.text(0, 16, f"mIoU over {title.partition(':')[0]}", size=LARGE, bold=True)
    if not cells:
        panel.text(0, 34, "not recorded", size=SMALL, color=SOFT)
        return set()
    smallest = min((value for value in cost.values() if value > 0), default=1.0)
    at = {key: log_place(value, smallest) for key, value in cost.items()}
    score = {(c.method, c.budget): numbers(row)[0] for c in cells if (row := c.row()) is not None}
    panel.ax.set_xlim(*span(list(at.values()), 0.06))
    scores_up(panel, span(list(score.values()), 0.08, within=(0.0, 1.0)))
    _ticks(panel, sorted(set(cost.values())), smallest, title)
    keys = sorted(score)
    on = [keys[i] for i in front([(at[key], score[key]) for key in keys])]
    high = panel.ax.get_xlim()[1]
    xs = [at[key] for key in on]
    panel.ax.step(
        [*xs, high],
        [*(score[key] for key in on), score[on[-1]]],
        where="post",
        color=INK,
        linewidth=1.0,
        alpha=0.55,
        zorder=1,
    )
    ends = []
    for method in dict.fromkeys(cell.method for cell in cells):
        style = view.styles[method]
        own = sorted((key for key in keys if key[0] == method), key=lambda key: score[key])
        if method != UPPER:
            panel.ax.plot(
                [at[key] for key in own],
                [score[key] for key in own],
                color=style.color,
                linewidth=1.0,
                alpha=0.5,
                zorder=1,
            )
        for key in own:
            panel.ax.plot(
                [at[key]],
                [score[key]],
                marker=style.marker,
                markersize=7.5,
                markeredgewidth=0,
                color=style.color,
                zorder=3,
                linestyle="none",
            )
            if key in on:
                panel.ax.plot(
                    [at[key]],
                    [score[key]],
                    marker="o",
                    markersize=14,
                    markerfacecolor="none",
                    markeredgecolor=INK,
                    markeredgewidth=1.0,
                    zorder=4,
                )
        place = panel.ax.transData.transform((at[own[-1]], score[own[-1]]))
        ends.append(((float(place[0]) + 2, float(place[1])), style, f"  {short(score[own[-1]])}"))
    label_ends(panel, ends)
    return set(on)


def _ticks(panel: FigurePanel, values: Sequence[float], smallest: float, title: str) -> None:
    low, high = panel.ax.get_xlim()
    if title.startswith("minutes"):
        ticks = [(value, minutes(value, "–")) for value in values]
    else:
        ticks = [(float(value), label) for value, label in _TIMES]
    shown: list[tuple[float, str]] = []
    for value, label in ticks:
        place = log_place(value, smallest)
        if low <= place <= high and (not shown or place - shown[-1][0] > (high - low) * 0.09):
            shown.append((place, label))
    panel.x_ticks([place for place, _ in shown], [label for _, label in shown], title)
