"""The leaderboard on the page: one row per cell, one metric written out, the others as data for the script."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tissuebench.results.metrics import lower_is_better
from tissuebench.results.render.terminal import minutes, short, signed
from tissuebench.results.report.styles import metric_name, plain
from tissuebench.results.report.view import PRIMARY, View
from tissuebench.results.tables.leaderboard import Gap, Leaderboard, LeaderboardRow

BESIDE = ("fwiou", "boundary_f1", "ece", "area_error", "balanced_accuracy", "auc")


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """A row of the table on the page.

    Attributes:
        score, diff: score and difference in ``PRIMARY`` as text; empty if there is none.
        mark: ``best``, ``tied`` or empty.
        place: low, mean and high on the common axis, 0..100; None without a score.
        beside: values of further scores, each with its text.
        gap: reason why there are no scores.
    """

    subject: str
    method: str
    arm: str
    budget: str
    minutes: float | None
    cost: str
    value: float | None
    score: str
    mark: str
    diff_value: float | None
    diff: str
    place: tuple[float, float, float] | None
    beside: tuple[tuple[float | None, str], ...]
    runs: str
    gap: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The table, with the data that the script needs to switch its metric."""

    lines: tuple[ScoreLine, ...]
    beside: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    data: Markup


def scores(views: Sequence[View]) -> Scores:
    """Put all subjects in one table, by subject, budget (in minutes) and score, ``full`` after everything else."""
    metrics = tuple(dict.fromkeys(metric for view in views for metric in view.metrics))
    beside = tuple(metric for metric in BESIDE if metric in metrics)
    found: list[tuple[tuple[object, ...], View, dict[str, LeaderboardRow], Gap | None]] = []
    for number, view in enumerate(views):
        board = view.subject.board
        gaps = {(gap.method, gap.budget): gap for gap in board.gaps}
        for key, rows in _by_cell(board).items():
            first = next(iter(rows.values()))
            mean = rows[PRIMARY].mean if PRIMARY in rows else None
            order = (number, first.method == "full", first.minutes or 0.0, key[1], mean is None, -(mean or 0.0), key[0])
            found.append((order, view, rows, gaps.get(key)))
    found.sort(key=lambda item: item[0])
    sole = Counter(
        (view.slug, row.budget, row.metric) for _, view, rows, _ in found for row in rows.values() if row.tie
    )
    values = [
        value
        for _, _, rows, _ in found
        if PRIMARY in rows
        for value in (rows[PRIMARY].low, rows[PRIMARY].mean, rows[PRIMARY].high)
        if value is not None
    ]
    ends = (min(values), max(values)) if values else (0.0, 1.0)
    lines = tuple(_line(view, rows, gap, sole, beside, ends) for _, view, rows, gap in found)
    data = [[_numbers(view, rows.get(metric), sole) for metric in metrics] for _, view, rows, _ in found]
    document = {
        "metrics": [{"id": m, "name": plain(metric_name(m)), "error": lower_is_better(m)} for m in metrics],
        "rows": data,
    }
    return Scores(
        lines,
        tuple("FwIoU" if metric == "fwiou" else metric_name(metric) for metric in beside),
        _groups(metrics),
        island(document),
    )


def island(document: object) -> Markup:
    """Serialise JSON for a script element, so that nothing in it opens or closes a tag."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - escaped here


def _by_cell(board: Leaderboard) -> dict[tuple[str, str], dict[str, LeaderboardRow]]:
    cells: dict[tuple[str, str], dict[str, LeaderboardRow]] = {}
    for row in board.rows:
        cells.setdefault((row.method, row.budget), {})[row.metric] = row
    return cells


def _line(
    view: View,
    rows: dict[str, LeaderboardRow],
    gap: Gap | None,
    sole: Counter[tuple[str, str, str]],
    beside: Sequence[str],
    ends: tuple[float, float],
) -> ScoreLine:
    first = next(iter(rows.values()))
    row = rows.get(PRIMARY)
    mean = None if row is None else row.mean
    place = None
    if row is not None and mean is not None:
        width = (ends[1] - ends[0]) or 1.0
        low, high = (mean if end is None else end for end in (row.low, row.high))
        place = tuple(round(100 * (value - ends[0]) / width, 2) for value in (low, mean, high))
    others = [rows[metric].mean if metric in rows else None for metric in beside]
    return ScoreLine(
        subject=view.title,
        method=view.styles[first.method].name,
        arm=plain(first.method),
        budget=plain(first.budget),
        minutes=first.minutes,
        cost=minutes(first.minutes, "–"),
        value=mean,
        score="" if row is None or mean is None else short(mean) + _ends(row.low, row.high, sign=False),
        mark="" if row is None else _mark(view, row, sole),
        diff_value=None if row is None else row.diff,
        diff=""
        if row is None or row.diff is None
        else signed(row.diff) + _ends(row.diff_low, row.diff_high, sign=True),
        place=place,  # type: ignore[arg-type]
        beside=tuple((value, "–" if value is None else short(value)) for value in others),
        runs=f"{first.n_replicates}×{first.n_seeds} / {first.n_patients}" if first.n_seeds else "–",
        gap=""
        if gap is None
        else f"{gap.n_done} of {gap.n_planned} trials" + (f", {gap.n_failed} failed" if gap.n_failed else ""),
    )


def _mark(view: View, row: LeaderboardRow, sole: Counter[tuple[str, str, str]]) -> str:
    return "" if not row.tie else "best" if sole[view.slug, row.budget, row.metric] == 1 else "tied"


def _numbers(
    view: View, row: LeaderboardRow | None, sole: Counter[tuple[str, str, str]]
) -> list[float | str | None] | None:
    if row is None or row.mean is None:
        return None
    values = (row.mean, row.low, row.high, row.diff, row.diff_low, row.diff_high)
    return [*(None if value is None else round(value, 6) for value in values), _mark(view, row, sole)]


def _ends(low: float | None, high: float | None, *, sign: bool) -> str:
    form = signed if sign else short
    return "" if low is None or high is None else f" [{form(low)}, {form(high)}]"


def _groups(metrics: Sequence[str]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Options of the metric menu: overall scores, then those by class."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for i, metric in enumerate(metrics):
        kind, slash, name = metric.partition("/")
        group = f"{metric_name(kind + slash).rstrip('/')} by class" if slash else "overall"
        groups.setdefault(group, []).append((str(i), plain(name if slash else metric_name(metric))))
    return tuple((group, tuple(options)) for group, options in groups.items())
