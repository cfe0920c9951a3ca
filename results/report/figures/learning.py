"""Curves of trainings: loss and validation over steps, one panel per metric, one colour per method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tissuebench.results.metrics import Floats
from tissuebench.results.records.curves import LOSS, Curves
from tissuebench.results.report.figures.curves import MOST
from tissuebench.results.report.figures.parts import span
from tissuebench.results.report.figures.sheet import LARGE, NORMAL, FigurePanel, Margins, Sheet, steps
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import INK, MethodStyle
from tissuebench.results.report.view import View

_POINTS = 60
"""Points of a line: more of them cannot be told apart in a panel."""
_SIZE, _MARGINS = (380, 236), Margins(48, 30, 14, 36)
_LEGEND_ROWS = 11
_JUDGED = ("selection/", "val/")
STAGE_END = ": "
"""Ends the name of an earlier stage before that of its metric."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Curves of one training: the name of its line, its method variant, and its points by metric."""

    name: str
    method: str
    curves: Curves


def learning(view: View, budget: str, number: int) -> list[Picture]:
    """Draw the mean curves of the methods at a budget, with the range of their runs; empty if no run has any."""
    methods = {(cell.method, cell.budget) for cell in view.with_full(budget)}
    trainings = [
        Learned(one.trial_id, one.method, view.subject.curves[one.trial_id])
        for one in view.subject.results
        if (one.method, one.budget) in methods and one.trial_id in view.subject.curves
    ]
    sheet = learning_sheet(trainings, view.styles, together=True)
    if sheet is None:
        return []
    return [
        sheet.picture(
            f"{view.slug}-learning-{number}",
            f"{view.title}: how they learned at {budget}",
            "Mean over runs, smoothed over a sixtieth of the steps; the band goes from the lowest run to the highest. "
            "Losses of different methods have different terms: compare their shapes, not their heights.",
            learning_records(trainings),
        )
    ]


def learning_sheet(
    trainings: Sequence[Learned], styles: Mapping[str, MethodStyle], *, together: bool = False
) -> Sheet | None:
    """Draw one panel per metric and a legend; None if nothing was logged. Use within ``drawing`` only.

    Args:
        trainings: the trainings.
        styles: styles by method variant.
        together: draw the mean of a method's trainings with their range, rather than one line each.
    """
    metrics = shown_metrics(trainings)[: MOST - 1]
    if not metrics:
        return None
    methods = [name for name in styles if any(one.method == name for one in trainings)]
    sheet = Sheet([*(f"{metric} over steps" for metric in metrics), "methods"], _SIZE, _MARGINS, 2)
    for panel, metric in zip(sheet.panels, metrics, strict=False):
        _panel(panel, metric, {name: _of(trainings, name, metric) for name in methods}, styles, together)
    _legend(sheet.panels[-1], methods, styles)
    return sheet


def shown_metrics(trainings: Sequence[Learned]) -> list[str]:
    """Return the metrics to draw: the loss, its parts, then validation; not the rate, the speed and so on."""
    every = dict.fromkeys(name for one in trainings for name, points in one.curves.items() if points)
    bare = {name: name.rpartition(STAGE_END)[2] for name in every}
    wanted = [name for name in every if bare[name] == LOSS or not bare[name].startswith("train/")]
    return sorted(wanted, key=lambda name: (name != bare[name], bare[name] != LOSS, bare[name].startswith(_JUDGED)))


def learning_records(trainings: Sequence[Learned]) -> list[Record]:
    """Return every point of the drawn metrics, for the CSV of a figure; values that are not finite are left empty."""
    metrics = shown_metrics(trainings)
    return [
        {"method": one.method, "trial": one.name, "metric": metric, "step": step, "value": _finite(value)}
        for one in trainings
        for metric in metrics
        for step, value in one.curves.get(metric, ())
    ]


def _of(trainings: Sequence[Learned], method: str, metric: str) -> list[Floats]:
    """Return the finite points (step, value), (N, 2), of each training of a method that has any."""
    lines = [
        np.array([point for point in one.curves.get(metric, ()) if math.isfinite(point[1])], dtype=np.float64)
        for one in trainings
        if one.method == method
    ]
    return [line for line in lines if len(line)]


def _panel(
    panel: FigurePanel,
    metric: str,
    lines: Mapping[str, Sequence[Floats]],
    styles: Mapping[str, MethodStyle],
    together: bool,
) -> None:
    panel.text(_MARGINS.left, 16.5, metric, size=LARGE, bold=True)
    last = max((float(line[-1, 0]) for group in lines.values() for line in group), default=1.0)
    width = last / _POINTS
    values: list[float] = []
    faint = 0.13 if len(lines) <= 4 else 0.06  # bands of many methods would hide each other
    for method, group in lines.items():
        binned = [_binned(line, width) for line in group]
        style = styles[method]
        if together and binned:
            place, runs = _aligned(binned)
            mean, low, high = np.nanmean(runs, 0), np.nanmin(runs, 0), np.nanmax(runs, 0)
            if len(runs) > 1:
                panel.ax.fill_between(place, low, high, color=style.color, alpha=faint, linewidth=0, zorder=1)
                values += [*low.tolist(), *high.tolist()]
            binned = [np.stack([place, mean], -1)]
        for line in binned:
            x, y = line.T
            panel.ax.plot(x, y, color=style.color, linewidth=1.7, linestyle=style.dash, zorder=2)
            panel.ax.plot(
                x[-1:], y[-1:], color=style.color, marker=style.marker, markersize=6, markeredgewidth=0,
                linestyle="none", zorder=3, clip_on=False,
            )  # fmt: skip
            values += y.tolist()
    panel.ax.set_xlim(0, last)
    ends = span(values)
    panel.ax.set_ylim(*ends)
    ticks = steps(0, last, 6)
    panel.x_ticks(ticks, [f"{tick:,.0f}" for tick in ticks], "optimiser steps")
    heights = steps(*ends, 6)
    panel.y_ticks(heights, [f"{height:g}" for height in heights])


def _binned(line: Floats, width: float) -> Floats:
    """Return the mean step and value of each interval of steps, (M, 2)."""
    number = np.floor(line[:, 0] / max(width, 1e-9)).astype(np.int64)
    _, where, counts = np.unique(number, return_inverse=True, return_counts=True)
    return np.stack([np.bincount(where, line[:, i]) / counts for i in range(2)], -1)


def _aligned(lines: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return all steps (M,) and the value of each line there, (R, M): nan before its first step and after its last."""
    place = np.unique(np.concatenate([line[:, 0] for line in lines]))
    runs = [np.interp(place, line[:, 0], line[:, 1], left=np.nan, right=np.nan) for line in lines]
    return place, np.stack(runs)


def _legend(panel: FigurePanel, methods: Sequence[str], styles: Mapping[str, MethodStyle]) -> None:
    column = _SIZE[0] / max(2, -(-len(methods) // _LEGEND_ROWS))
    for i, method in enumerate(methods):
        x, y = _MARGINS.left + i // _LEGEND_ROWS * column, 30 + 18 * (i % _LEGEND_ROWS)
        panel.mark(x, y - 4, styles[method])
        panel.text(x + 12, y, styles[method].name, size=NORMAL, color=INK)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
