"""Leaderboard output: terminal tables (rich) and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tissuebench.results.case_metrics import CASE_METRICS
from tissuebench.results.records.pseudo_mask_quality import DIAGNOSTIC
from tissuebench.results.render.method_names import short_names
from tissuebench.results.tables.against_reference import Comparison
from tissuebench.results.tables.compute_cost import ComputeRow
from tissuebench.results.tables.label_efficiency import SHARE, EfficiencyRow
from tissuebench.results.tables.leaderboard import Gap, Leaderboard, LeaderboardRow
from tissuebench.results.tables.pseudo_masks import PseudoRow

_Key = tuple[str, str, str]  # dataset, method, budget


def to_json(rows: Sequence[LeaderboardRow]) -> str:
    """Return a JSON list, one object per row with the fields of ``LeaderboardRow``; null where there is no number."""
    return json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False)


@dataclass(frozen=True)
class _Style:
    """Symbols of a terminal: of the best, of a difference, of no number."""

    mark: str
    delta: str
    dash: str

    def score(self, row: LeaderboardRow | None) -> Text:
        """Format a score as ``.446 [.401, .482]``, bold and marked if the row is among the best."""
        if row is None or row.mean is None:
            return Text(self.dash)
        return Text(
            short(row.mean) + (f" {self.mark}" if row.tie else "") + self._ends(row.low, row.high, short),
            style="bold" if row.tie else "",
        )

    def diff(self, row: LeaderboardRow | None) -> Text:
        """Format a difference as ``+.021 [-.010, +.052]``."""
        if row is None or row.diff is None:
            return Text(self.dash)
        return Text(signed(row.diff) + self._ends(row.diff_low, row.diff_high, signed))

    def _ends(self, low: float | None, high: float | None, form: Callable[[float], str]) -> str:
        ends = f"[{form(low)}, {form(high)}]" if low is not None and high is not None else f"[{self.dash}]"
        return f" {ends}"


def short(value: float) -> str:
    """Format 0.4461 as ``.446`` and 1 as ``1.000``."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def signed(value: float) -> str:
    """Format a difference with its sign, exactly 0 without; ``-.000`` is a small negative one."""
    return short(value) if value <= 0 else "+" + short(value)


def render(board: Leaderboard, console: Console) -> None:
    """Print the tables of each dataset, from overall scores to compute cost, then notes. Fits 120 columns.

    If a method has a single variant, its settings are printed once, below the tables.
    """
    board, settings = _without_settings(board)
    modern = console.encoding.lower().startswith("utf")
    by_cell: dict[_Key, dict[str, LeaderboardRow]] = {}
    for row in board.rows:
        by_cell.setdefault((row.dataset, row.method, row.budget), {})[row.metric] = row
    gaps = {(gap.dataset, gap.method, gap.budget): gap for gap in board.gaps}
    for dataset in dict.fromkeys(row.dataset for row in board.rows):
        cells = {key: scores for key, scores in by_cell.items() if key[0] == dataset}
        s = _Style(*(("•", "Δ", "–") if modern else ("*", "diff", "-")))
        steps = {(row.dataset, row.method, row.budget): _steps(row, s) for row in board.compute}
        console.print(_overall(dataset, cells, gaps, steps, s))
        if any(CASE_METRICS[0] in scores for scores in cells.values()):
            console.print(_cases(dataset, cells, s))
        classes = [m for m in dict.fromkeys(m for scores in cells.values() for m in scores) if m.startswith("dice/")]
        fit = max(1, (console.width - 34) // 21)
        for start in range(0, len(classes), fit):
            console.print(_per_class(dataset, cells, classes[start : start + fit], board.shares, s))
        if curves := [row for row in board.efficiency if row.dataset == dataset]:
            console.print(_efficiency(curves, s))
        if of_dataset := [row for row in board.pseudo if row.dataset == dataset]:
            about = f"pseudo-masks of training tiles against withheld masks ({DIAGNOSTIC})"
            console.print(Text(f"\n{dataset}: {about}", style="italic"))  # a title wraps at the table's width
            console.print(_pseudo(of_dataset, s))
        if taken := [row for row in board.compute if row.dataset == dataset]:
            console.print(_compute(taken, s))
    if not board.rows:
        console.print(Text("no results yet"))
    for method, said in settings.items():
        console.print(Text(f"{method}: with {said}"))
    for note in board.notes:
        console.print(Text(f"note: {note}"))
    if board.rows:
        console.print(Text(_reading(board, "•" if modern else "*")))


def _without_settings(board: Leaderboard) -> tuple[Leaderboard, dict[str, str]]:
    """Return the board with short names of methods, and the settings that these leave out."""
    short, settings = short_names({row.method for row in board.rows})
    named = replace(
        board,
        rows=tuple(replace(row, method=short[row.method]) for row in board.rows),
        gaps=tuple(replace(gap, method=short[gap.method]) for gap in board.gaps),
        pseudo=tuple(replace(row, method=short[row.method]) for row in board.pseudo),
        efficiency=tuple(replace(row, method=short[row.method]) for row in board.efficiency),
        compute=tuple(replace(row, method=short[row.method]) for row in board.compute),
    )
    return named, settings


def render_comparisons(comparisons: Sequence[Comparison], metrics: Sequence[str], console: Console) -> None:
    """Print paired differences to the reference in these metrics, with p and p adjusted over the cells of a budget."""
    short, settings = short_names({name for row in comparisons for name in (row.method, row.reference)})
    for dataset in dict.fromkeys(row.dataset for row in comparisons):
        rows = [row for row in comparisons if row.dataset == dataset and row.metric in metrics]
        against = f"{short[rows[0].reference]} {rows[0].reference_budget}" if rows else ""
        table = plain_table(f"\n{dataset}: difference to {against}")
        for name in ("method", "budget", "metric", "difference [low, high]", "p", "p (Holm)", "runs"):
            table.add_column(Text(name), overflow="fold")  # as a plain string, brackets would be markup
        for row in rows:
            interval = "-" if row.diff is None else signed(row.diff)
            if row.low is not None and row.high is not None:
                interval += f" [{signed(row.low)}, {signed(row.high)}]"
            p = ["-" if value is None else f"{value:.2g}" for value in (row.p, row.p_holm)]
            table.add_row(*map(Text, (short[row.method], row.budget, row.metric, interval, *p, str(row.n_runs))))
        console.print(table)
    for method, said in settings.items():
        console.print(Text(f"{method}: with {said}"))


def plain_table(title: str, gap: int = 2) -> Table:
    """Return a table without lines, its title flush left; names from data are not parsed as markup."""
    return Table(
        title=Text(title), title_justify="left", box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold"
    )


def _overall(
    dataset: str,
    cells: dict[_Key, dict[str, LeaderboardRow]],
    gaps: dict[_Key, Gap],
    steps: Mapping[_Key, str],
    s: _Style,
) -> Table:
    table = plain_table(f"\n{dataset}", gap=1)
    for name in ("method", "budget"):
        table.add_column(name, overflow="fold")
    table.add_column("minutes", justify="right")
    table.add_column(Text("mIoU [low, high]"))
    table.add_column(f"{s.delta} to supervised")
    table.add_column("FwIoU")
    table.add_column("boundary\nF1")
    table.add_column("steps:\nmasks/all", justify="right")
    table.add_column("runs/\npatients", justify="right")
    for key, scores in _by_budget(table, cells):
        row = next(iter(scores.values()))
        miou = scores.get("miou")
        first = _gap_text(gaps[key]) if key in gaps else s.score(miou)
        line = [Text(row.method), Text(row.budget), Text(minutes(row.minutes, s.dash)), first, s.diff(miou)]
        line += [_bare(scores.get("fwiou"), s), _bare(scores.get("boundary_f1"), s), Text(steps.get(key, s.dash))]
        table.add_row(*line, _runs(row, s))
    return table


def _cases(dataset: str, cells: dict[_Key, dict[str, LeaderboardRow]], s: _Style) -> Table:
    """Return the scores of cases, which need a diagnosis and no masks: their patients are others than above."""
    table = plain_table(f"\n{dataset}: diagnosis of each case, by predicted area")
    for name in ("method", "budget"):
        table.add_column(name, overflow="fold")
    table.add_column(Text("balanced accuracy"))
    table.add_column(f"{s.delta} to supervised")
    table.add_column(Text("AUC"))
    table.add_column("runs/\npatients", justify="right")
    for _, scores in _by_budget(table, cells):
        row = next(iter(scores.values()))
        accuracy, auc = (scores.get(metric) for metric in CASE_METRICS)
        line = [Text(row.method), Text(row.budget), s.score(accuracy), s.diff(accuracy), s.score(auc)]
        table.add_row(*line, s.dash if accuracy is None else _runs(accuracy, s))
    return table


def _by_budget(
    table: Table, cells: dict[_Key, dict[str, LeaderboardRow]]
) -> Iterator[tuple[_Key, dict[str, LeaderboardRow]]]:
    """Yield the cells, with an empty line between budgets."""
    budget = None
    for key, scores in cells.items():
        if budget not in (None, key[2]):
            table.add_row()
        budget = key[2]
        yield key, scores


def _runs(row: LeaderboardRow, s: _Style) -> Text:
    return Text(f"{row.n_replicates}x{row.n_seeds}/{row.n_patients}" if row.n_seeds else s.dash)


def _steps(row: ComputeRow, s: _Style) -> str:
    """Format optimiser steps over all stages: those that learn from masks, and all."""
    return "/".join(_amount(number, s.dash) for number in (row.annotated_steps, row.all_steps))


def _per_class(
    dataset: str,
    cells: dict[_Key, dict[str, LeaderboardRow]],
    metrics: Sequence[str],
    shares: Mapping[tuple[str, str], float],
    s: _Style,
) -> Table:
    table = plain_table(f"\n{dataset}: Dice per class")
    table.add_column("method", overflow="fold")
    table.add_column("budget", overflow="fold")
    for metric in metrics:
        label = metric.removeprefix("dice/")
        share = shares.get((dataset, label))
        table.add_column(Text(label + ("" if share is None else f"\n{100 * share:.2g} % of pixels")), overflow="fold")
    for (_, method, budget), scores in cells.items():
        table.add_row(Text(method), Text(budget), *(s.score(scores.get(metric)) for metric in metrics))
    return table


def _efficiency(rows: Sequence[EfficiencyRow], s: _Style) -> Table:
    first, last = rows[0].first, rows[0].last
    span = "" if first is None else f", {minutes(first, s.dash)} to {minutes(last, s.dash)}"
    table = plain_table(f"\n{rows[0].dataset}: label efficiency ({rows[0].metric})")
    table.add_column("method", overflow="fold")
    table.add_column(f"mean over log minutes{span}")
    table.add_column(f"minutes to {100 * SHARE:.0f} % of full")
    table.add_column("budgets", justify="right")
    for row in rows:
        height = s.dash if row.area is None else short(row.area)
        if row.area_low is not None and row.area_high is not None:
            height += f" [{short(row.area_low)}, {short(row.area_high)}]"
        needed = [_needed(value, row, s) for value in (row.minutes, row.minutes_low, row.minutes_high)]
        text = needed[0] if row.minutes is None else f"{needed[0]} [{needed[1]}, {needed[2]}]"
        table.add_row(*map(Text, (row.method, height, text, str(row.n_budgets))))
    return table


def _needed(value: float | None, row: EfficiencyRow, s: _Style) -> str:
    """Format minutes, or the side of the budgets on which they are censored."""
    if value is None:
        return s.dash
    if math.isinf(value):
        return "> " + minutes(row.largest, s.dash)
    return minutes(value, s.dash) if value else "<= " + minutes(row.smallest, s.dash)


def _pseudo(rows: Sequence[PseudoRow], s: _Style) -> Table:
    table = plain_table("")
    for name in ("method", "budget", "layer", "mIoU (lowest to highest run)"):
        table.add_column(name, overflow="fold")
    table.add_column("coverage", justify="right")
    table.add_column("runs", justify="right")
    for row in rows:
        score = s.dash if row.miou is None else short(row.miou)
        if row.lowest is not None and row.highest is not None:
            score += f" ({short(row.lowest)} to {short(row.highest)})"
        runs = f"{row.n_replicates}x{row.n_seeds}"
        table.add_row(*map(Text, (row.method, row.budget, row.layer, score, short(row.coverage), runs)))
    return table


def _compute(rows: Sequence[ComputeRow], s: _Style) -> Table:
    """Return one line per method, or one per budget if a method's steps or samples differ between budgets."""
    table = plain_table(f"\n{rows[0].dataset}: compute, mean over trials")
    for name in ("method", "budgets"):
        table.add_column(name, overflow="fold")
    for name in ("steps", "samples", "seconds", "peak\nMiB", "before:\nsteps", "\nsamples", "\nseconds"):
        table.add_column(name, justify="right")
    alike: dict[tuple[str, ...], list[ComputeRow]] = {}
    for row in rows:
        work = (row.steps, row.samples, row.pre_steps, row.pre_samples)
        alike.setdefault((row.method, *map(str, work)), []).append(row)
    for group in alike.values():
        first = group[0]
        n_budgets = sum(row.method == first.method for row in rows)
        budgets = "all alike" if len(group) == n_budgets > 1 else ", ".join(row.budget for row in group)
        memory = [row.peak_memory / 2**20 for row in group if row.peak_memory is not None]
        seconds = [row.seconds for row in group if row.seconds is not None]
        before = (first.pre_steps, first.pre_samples, _mean([row.pre_seconds for row in group]))
        numbers = (first.steps, first.samples, _mean(seconds), _mean(memory))
        cells = [_amount(number, s.dash) for number in numbers]
        cells += [_amount(number, s.dash) if any(before) else s.dash for number in before]
        table.add_row(*map(Text, (first.method, budgets, *cells)))
    return table


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _amount(value: float | None, unknown: str) -> str:
    """Format with at least three digits and separated thousands: ``1.53``, ``12,800``."""
    return unknown if value is None else f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def minutes(value: float | None, unknown: str) -> str:
    """Format minutes without needless digits."""
    return unknown if value is None else f"{value:.0f}" if value >= 10 else f"{value:.3g}"


def _bare(row: LeaderboardRow | None, s: _Style) -> Text:
    return Text(s.dash if row is None or row.mean is None else short(row.mean))


def _gap_text(gap: Gap) -> Text:
    failed = f", {gap.n_failed} failed" if gap.n_failed else ""
    return Text(f"{gap.n_done} of {gap.n_planned} trials{failed}")


def _reading(board: Leaderboard, mark: str) -> str:
    return (
        f"\n{mark} not distinguishable from the best at its budget (excluding full), at 5 % over all pairs. Intervals: "
        "95 %, over draws of the budget, seeds, and patients (docs/statistics.md). Steps of the "
        "optimiser: those that learn from masks, and all. runs = draws x seeds. Minutes of annotation are assumed, not "
        "measured."
    )
