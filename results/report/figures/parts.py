"""Shared parts of figures: axes of scores and minutes, labels at the ends of lines, points with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.transforms import IdentityTransform

from tissuebench.results.render.terminal import minutes, short
from tissuebench.results.report.figures.sheet import NORMAL, FigurePanel, spread, steps
from tissuebench.results.report.picture import Record
from tissuebench.results.report.styles import INK, PAPER, SOFT, MethodStyle
from tissuebench.results.tables.leaderboard import LeaderboardRow

Point = tuple[float, float]


def numbers(row: LeaderboardRow) -> tuple[float, float, float]:
    """Return mean, low and high of a row that has a mean; three times the mean without an interval."""
    mean = row.mean if row.mean is not None else math.nan
    return mean, mean if row.low is None else row.low, mean if row.high is None else row.high


def record(row: LeaderboardRow) -> Record:
    """Convert a row of the leaderboard to a record for the CSV of a figure."""
    return {
        "dataset": row.dataset, "method": row.method, "budget": row.budget, "minutes": row.minutes,
        "metric": row.metric, "mean": row.mean, "low": row.low, "high": row.high,
    }  # fmt: skip


def span(values: Sequence[float], pad: float = 0.06, *, within: Point = (-math.inf, math.inf)) -> Point:
    """Return the limits of an axis that shows these values."""
    there = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(there), max(there)
    room = pad * (high - low) or 0.05 * max(abs(high), 0.1)
    return max(within[0], low - room), min(within[1], high + room)


def scores_up(panel: FigurePanel, ends: Point) -> None:
    """Draw a vertical axis of scores."""
    panel.ax.set_ylim(*ends)
    ticks = steps(*ends, 7)
    panel.y_ticks(ticks, [_tick(tick) for tick in ticks])


def scores_across(panel: FigurePanel, ends: Point, title: str, most: int = 6) -> None:
    """Draw a horizontal axis of scores."""
    panel.ax.set_xlim(*ends)
    ticks = steps(*ends, most)
    panel.x_ticks(ticks, [_tick(tick) for tick in ticks], title)


def _tick(value: float) -> str:
    """Format a tick label without trailing zeros."""
    return "0" if value == 0 else short(value).rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:g}"


def log_place(value: float, smallest: float) -> float:
    """Return the position of a value on a logarithmic axis; 0 goes to the left of the smallest positive value."""
    return math.log10(value) if value > 0 else math.log10(smallest) - 0.5


def interval(ax: Axes, y: float, ends: tuple[float, float, float], style: MethodStyle, *, filled: bool = True) -> None:
    """Draw a point with its interval (mean, low, high) at height ``y``; hollow unless ``filled``."""
    mean, low, high = ends
    ax.plot(
        [low, high],
        [y, y],
        color=style.color,
        linewidth=2.0,
        solid_capstyle="round",
        zorder=2,
        alpha=0.65,
        clip_on=False,
    )
    ax.plot(
        [mean], [y], marker=style.marker, markersize=7, color=style.color, linestyle="none", zorder=3,
        clip_on=False, markeredgewidth=1.4, markeredgecolor=style.color,
        markerfacecolor=style.color if filled else PAPER,
    )  # fmt: skip


def label_ends(panel: FigurePanel, ends: Sequence[tuple[Point, MethodStyle, str]], gap: float = 26) -> None:
    """Write names to the right of the axes, near the heights of their points, with leader lines and no overlap.

    Args:
        panel: panel to draw in.
        ends: for each name the point in pixels of the sheet, its style, and text after the name.
        gap: distance between the axes and the names.
    """
    box = panel.ax.get_window_extent()
    places = spread([end[0][1] for end in ends], 15.0, box.y0 - 8, box.y1 + 6)
    at = box.x1 + gap
    leaders = [
        [(x + 6, y), (box.x1 + 4, y), (at - 12, place)] if x + 6 < box.x1 + 4 else [(x + 6, y), (at - 12, place)]
        for ((x, y), _, _), place in zip(ends, places, strict=True)
    ]
    lines = LineCollection(leaders, colors=SOFT, linewidths=0.6, transform=IdentityTransform(), clip_on=False, zorder=1)
    lines.set_alpha(0.55)
    panel.ax.add_collection(lines, autolim=False)
    for (_, style, beside), place in zip(ends, places, strict=True):
        panel.mark(at - 5 - panel.x, panel.y - place, style)
        panel.text(at + 4 - panel.x, panel.y - place + 4, style.name + beside, size=NORMAL, color=INK)


def budget_ticks(panel: FigurePanel, budgets: Sequence[tuple[str, float]], smallest: float, *, named: bool) -> None:
    """Mark budgets on a logarithmic axis by minutes, with names if ``named``; skips labels that would overlap."""
    places = [log_place(cost, smallest) for _, cost in budgets]
    box = panel.ax.get_window_extent()
    low, high = panel.ax.get_xlim()
    free = -math.inf
    labels = []
    for (name, cost), place in zip(budgets, places, strict=True):
        words = f"{name[:14]}\n{minutes(cost, '–')} min" if named else minutes(cost, "–")
        half = 3.4 * max(map(len, words.split("\n"))) + 2
        middle = box.x0 + (place - low) / (high - low) * box.width
        shown = middle - half > free
        free = middle + half if shown else free
        labels.append(words if shown else "")
    panel.x_ticks(places, labels, "" if named else "minutes of annotation")
