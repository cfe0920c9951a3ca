"""Summary of the results in sentences that claim no more than the numbers support."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tissuebench.results.render.terminal import minutes, short
from tissuebench.results.report.styles import plain
from tissuebench.results.report.view import CellView, View
from tissuebench.results.tables.label_efficiency import SHARE
from tissuebench.results.tables.leaderboard import LOWER, LeaderboardRow

_MOST = 6


def summary(view: View) -> list[str]:
    """Return sentences about one subject, most important first."""
    if not view.cells:
        return ["Nothing is complete yet, so there are no scores."]
    said = [*_leaders(view), *_against_control(view), *_against_full(view), *_classes(view), *_confidence(view)]
    return said + _missing(view) + _caveats(view)


def _leaders(view: View) -> list[str]:
    said = []
    for budget, cost in view.budgets:
        cells = view.at(budget)
        where = f"At {plain(budget)} ({minutes(cost, '–')} min)"
        if len(cells) == 1:
            said.append(f"{where} only {_name(view, cells[0])} is complete: {_score(cells[0].row())}.")
        if len(cells) < 2:
            continue
        tied = [cell for cell in cells if (row := cell.row()) is not None and row.tie]
        best, others = cells[0], [cell for cell in tied if cell is not cells[0]]
        if not others:
            said.append(
                f"{where} {_name(view, best)} has the highest mIoU, {_score(best.row())}: its paired difference "
                "to every other "
                "method is significant at 5 % after adjustment over all pairs."
            )
            continue
        control = any(cell.method == LOWER for cell in tied)
        said.append(
            f"{where} there is no single best method. {_name(view, best)} scores highest, {_score(best.row())}, "
            "but the data do "
            f"not tell it apart from {_names(view, others)}"
            + (f"; {LOWER}, the control, is among the tied." if control and len(tied) > 1 else ".")
        )
    return said


def _against_control(view: View) -> list[str]:
    above: dict[str, int] = {}
    below: dict[str, int] = {}
    compared: dict[str, int] = {}
    for cell in view.cells.values():
        row = cell.row()
        if row is None or row.diff_low is None or row.diff_high is None:
            continue
        compared[cell.method] = compared.get(cell.method, 0) + 1
        above[cell.method] = above.get(cell.method, 0) + (row.diff_low > 0)
        below[cell.method] = below.get(cell.method, 0) + (row.diff_high < 0)
    if not compared:
        return []
    label = {method: style.name for method, style in view.styles.items()}
    always = [label[m] for m, n in compared.items() if above[m] == n]
    some = [f"{label[m]} ({above[m]} of {n})" for m, n in compared.items() if 0 < above[m] < n]
    worse = [label[m] for m, n in compared.items() if below[m] == n]
    never = [label[m] for m in compared if not above[m] and not below[m]]
    parts = [
        f"better at every budget measured: {_list(always)}"
        if always
        else "no method is better at every budget measured"
    ]
    parts += [f"better at some: {_list(some)}"] if some else []
    parts += [f"not distinguishable at any: {_list(never)}"] if never else []
    parts += [f"worse at every one: {_list(worse)}"] if worse else []
    return [
        f"Against {LOWER} with the same labels (intervals of single comparisons that leave out 0), "
        + "; ".join(parts)
        + "."
    ]


def _against_full(view: View) -> list[str]:
    full = view.full
    row = None if full is None else full.row()
    if full is None or row is None or not row.mean:
        return []
    said = f"Masks of everything ({minutes(full.minutes, '–')} min) give {_score(row)}."
    reached = []
    for one in view.subject.board.efficiency:
        if one.metric == "miou" and one.minutes is not None and math.isfinite(one.minutes):
            needed = one.minutes or one.smallest
            ends = [one.minutes_low, one.minutes_high]
            told = "" if None in ends else f" [{', '.join(_needed(end, one.smallest, one.largest) for end in ends)}]"
            at_most = "at most " if not one.minutes else ""
            reached.append((needed, f"{view.styles[one.method].name} after {at_most}{minutes(needed, '–')} min{told}"))
    if reached:
        reached.sort()
        said += f" {100 * SHARE:.0f} % of this is reached by {_list([text for _, text in reached])}."
    elif view.subject.board.efficiency:
        said += f" No method reaches {100 * SHARE:.0f} % of this at the budgets measured."
    return [said]


def _needed(value: float | None, smallest: float, largest: float) -> str:
    if value is None or math.isinf(value):
        return f"> {minutes(largest, '–')}"
    return minutes(value, "–") if value else f"≤ {minutes(smallest, '–')}"


def _classes(view: View) -> list[str]:
    if not view.budgets:
        return []
    budget = view.budgets[-1][0]
    best = []
    for name in view.classes:
        rows = [row for cell in view.at(budget) if (row := cell.row(f"dice/{name}")) is not None]
        values = [row.mean for row in rows if row.mean is not None]
        if values:
            best.append((max(values), name))
    if len(best) < 2:
        return []
    score, name = min(best)
    return [
        f"The hardest class at {plain(budget)} is “{plain(name)}”: no method's Dice is above {short(score)}; "
        "for the easiest, "
        f"“{plain(max(best)[1])}”, the highest is {short(max(best)[0])}."
    ]


def _confidence(view: View) -> list[str]:
    if not view.budgets:
        return []
    budget = view.budgets[-1][0]
    found = []
    for cell in view.at(budget):
        row = cell.row("ece")
        if row is not None and row.mean is not None:
            found.append((row.mean, _name(view, cell)))
    if len(found) < 2:
        return []
    (low, least), (high, most) = min(found), max(found)
    return [
        f"Confidence at {plain(budget)} is off by {short(low)} ({least}) to {short(high)} ({most}) on average (ECE)."
    ]


def _missing(view: View) -> list[str]:
    gaps, failures = view.subject.board.gaps, view.subject.failures
    if not gaps:
        return []
    some = [
        f"{view.styles[gap.method].name} at {plain(gap.budget)} ({gap.n_done} of {gap.n_planned} trials)"
        for gap in gaps
    ]
    failed = f"; {len(failures)} trial{'s' if len(failures) != 1 else ''} failed" if failures else ""
    return [f"Not complete, and left without numbers: {_list(some)}{failed}."]


def _caveats(view: View) -> list[str]:
    rows = [row for cell in view.cells.values() if (row := cell.row()) is not None]
    fewest = min((row.n_replicates * row.n_seeds for row in rows), default=0)
    said = []
    if len(view.patients) < 2:
        said.append("There is one test patient: of others it says next to nothing, and nothing can be told apart.")
    elif fewest and fewest < 5:
        runs = "run" if fewest == 1 else "runs"
        said.append(
            f"The intervals rest on {len(view.patients)} patients and as few as {fewest} {runs} of a method: "
            "they are wide for it."
        )
    return said


def _name(view: View, cell: CellView) -> str:
    return view.styles[cell.method].name


def _names(view: View, cells: Sequence[CellView]) -> str:
    return _list([_name(view, cell) for cell in cells])


def _score(row: LeaderboardRow | None) -> str:
    if row is None or row.mean is None:
        return "no score"
    return short(row.mean) + ("" if row.low is None or row.high is None else f" [{short(row.low)}, {short(row.high)}]")


def _list(words: Sequence[str]) -> str:
    shown = list(words[:_MOST])
    if len(words) > _MOST:
        shown.append(f"{len(words) - _MOST} more")
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
