"""Critical-difference diagram (Demsar, JMLR 2006) of average ranks, turned on its side: one line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection

from tissuebench.results.render.terminal import short
from tissuebench.results.report.figures.parts import interval
from tissuebench.results.report.figures.sheet import LARGE, SMALL, FigurePanel, Margins, Sheet
from tissuebench.results.report.picture import Picture, Record
from tissuebench.results.report.styles import INK, SOFT, MethodStyle, metric_name

if TYPE_CHECKING:
    from tissuebench.results.tables.ranks import Ranking

_ROW = 19.0


def ranks(slug: str, rankings: Sequence[Ranking], styles: Mapping[str, MethodStyle]) -> list[Picture]:
    """Draw one panel per ranking; empty without rankings of at least two methods.

    Args:
        slug: prefix of the file name.
        rankings: rankings in one metric.
        styles: styles by method variant.
    """
    rankings = [ranking for ranking in rankings if len(ranking.rows) > 1]
    if not rankings:
        return []
    most = max(len(ranking.rows) for ranking in rankings)
    sheet = Sheet(
        [f"average ranks at {ranking.budget}" for ranking in rankings],
        (384, 82 + _ROW * most + 36),
        Margins(178, 82, 62, 36),
        3,
    )
    records: list[Record] = []
    for panel, ranking in zip(sheet.panels, rankings, strict=True):
        _draw(panel, ranking, styles, most)
        for row in ranking.rows:
            records.append(
                {
                    "metric": ranking.metric,
                    "budget": ranking.budget,
                    "method": row.method,
                    "rank": row.rank,
                    "n_datasets": len(ranking.datasets),
                    "friedman_p": ranking.friedman_p,
                    "critical_difference": ranking.critical_difference,
                }
            )
    return [
        sheet.picture(
            f"{slug}-ranks",
            f"Average ranks in {metric_name(rankings[0].metric)}",
            "1 is best. A mark is the mean rank over datasets. Methods that a bar at the right joins differ by less "
            "than the critical difference (Nemenyi, 5 %). Where Friedman's test does not reject, no two of them should "
            "be told apart.",
            records,
        )
    ]


def _draw(panel: FigurePanel, ranking: Ranking, styles: Mapping[str, MethodStyle], most: int) -> None:
    rows = sorted(ranking.rows, key=lambda row: (row.rank, row.method))
    n = len(rows)
    panel.text(0, 16, f"{ranking.budget}", size=LARGE, bold=True)
    panel.text(0, 30, f"{len(ranking.datasets)} datasets", size=SMALL, color=SOFT)
    panel.text(0, 43, f"Friedman {_p(ranking.friedman_p)}", size=SMALL, color=SOFT)
    panel.ax.set_xlim(0.7, n + 0.3)
    panel.ax.set_ylim(most - 0.5, -0.5)
    ticks = range(1, n + 1, 1 if n <= 12 else -(-n // 12))
    panel.x_ticks(list(ticks), [str(tick) for tick in ticks], "mean rank (left is better)")
    for i, row in enumerate(rows):
        style = styles[row.method]
        panel.text(170, 82 + _ROW * (i + 0.5) + 4, style.name, size=10, side="right")
        interval(panel.ax, i, (row.rank, row.rank, row.rank), style)
    width = ranking.critical_difference
    if width is not None and width < n:
        ends = [
            np.array([[1, -1.25], [1 + width, -1.25]]),
            *(np.array([[end, -1.5], [end, -1.0]]) for end in (1, 1 + width)),
        ]
        panel.ax.add_collection(LineCollection(ends, colors=INK, linewidths=1.3, clip_on=False), autolim=False)
        panel.ax.annotate(
            f"critical difference {width:.2f}",
            (1, -1.25),
            xytext=(0, 8),
            textcoords="offset points",
            fontsize=SMALL,
            color=SOFT,
            annotation_clip=False,
        )
    place = {row.method: i for i, row in enumerate(rows)}
    bars = sorted(
        (min(found), max(found))
        for group in ranking.groups
        if len(found := [place[m] for m in group if m in place]) > 1
    )
    per_pixel = (n - 0.4) / panel.ax.get_window_extent().width
    segments = [
        [(n + 0.3 + (8 + 8 * j) * per_pixel, a - 0.25), (n + 0.3 + (8 + 8 * j) * per_pixel, b + 0.25)]
        for j, (a, b) in enumerate(bars[:6])
    ]
    panel.ax.add_collection(
        LineCollection(segments, colors=INK, linewidths=3, alpha=0.75, clip_on=False), autolim=False
    )


def _p(value: float) -> str:
    return "p < .001" if value < 0.001 else f"p = {short(value)}"
