"""The leaderboard as a LaTeX table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from tissuebench.results.metrics import lower_is_better
from tissuebench.results.render.method_names import short_names
from tissuebench.results.render.terminal import minutes, short, signed
from tissuebench.results.tables.leaderboard import Gap, Leaderboard, LeaderboardRow

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "{}$&%#_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line break it would be read as the option of \\
    "]": "{]}",
    "\n": " ",
}
_TITLES = {
    "miou": "mIoU",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "fwiou": "FwIoU",
    "boundary_f1": "boundary F1",
    "ece": "ECE",
    "area_error": "area error",
}
_WITH_INTERVAL = ("miou", "balanced_accuracy", "auc")
_DASH = "--"


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    escaped = re.sub("|".join(map(re.escape, _SPECIAL)), lambda found: _SPECIAL[found[0]], text)
    return re.sub("-(?=-)", "-{}", escaped)  # keep double hyphens from turning into dashes


def to_latex(boards: Sequence[Leaderboard]) -> str:
    r"""Return one ``tabular`` of all data sets, for ``\input``. Requires the package booktabs.

    Rows in bold are not distinguishable from the best at their budget (``LeaderboardRow.tie``). Intervals are
    subscripts. Settings of a method's only variant are given in comments.
    """
    rows = [row for board in boards for row in board.rows]
    gaps = {(gap.dataset, gap.method, gap.budget): gap for board in boards for gap in board.gaps}
    names, settings = short_names({row.method for row in rows})
    known = {row.metric for row in rows}
    metrics = [metric for metric in _TITLES if metric in known]
    columns = ["method", "budget", "minutes", *map(_title, metrics)]
    if "miou" in metrics:
        columns.insert(4, "mIoU $-$ supervised")
    lines = ["% \\usepackage{booktabs}"]
    lines += [f"% {method}: with {' '.join(said.split())}" for method, said in settings.items()]
    lines += ["\\begin{tabular}{llr" + "l" * (len(columns) - 3) + "}", "\\toprule", _line(columns)]
    cells: dict[str, dict[tuple[str, str, str], dict[str, LeaderboardRow]]] = {}
    for row in rows:
        of_dataset = cells.setdefault(row.dataset, {})
        of_dataset.setdefault((row.dataset, row.method, row.budget), {})[row.metric] = row
    for dataset, of_dataset in cells.items():
        lines.append("\\midrule")
        if len(cells) > 1:
            lines.append(f"\\multicolumn{{{len(columns)}}}{{l}}{{\\textit{{{escape(dataset)}}}}} \\\\")
        budget = None
        for key, scores in of_dataset.items():
            if budget not in (None, key[2]):
                lines.append("\\addlinespace")
            budget = key[2]
            lines.append(_line(_cells(names[key[1]], scores, metrics, gaps.get(key))))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _title(metric: str) -> str:
    return _TITLES[metric] + (r" $\downarrow$" if lower_is_better(metric) else "")


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cells(method: str, scores: Mapping[str, LeaderboardRow], metrics: Sequence[str], gap: Gap | None) -> list[str]:
    row = next(iter(scores.values()))
    line = [escape(method), escape(row.budget), minutes(row.minutes, _DASH)]
    for metric in metrics:
        one = scores.get(metric)
        if one is None or one.mean is None:
            line.append(f"{gap.n_done} of {gap.n_planned} trials" if gap and metric == "miou" else _DASH)
        else:
            mean = f"\\mathbf{{{short(one.mean)}}}" if one.tie else short(one.mean)
            line.append(f"${mean}{_ends(one.low, one.high, short) if metric in _WITH_INTERVAL else ''}$")
        if metric == "miou":
            line.append(_difference(one))
    return line


def _difference(row: LeaderboardRow | None) -> str:
    if row is None or row.diff is None:
        return _DASH
    return f"${signed(row.diff)}{_ends(row.diff_low, row.diff_high, signed)}$"


def _ends(low: float | None, high: float | None, form: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f"_{{[{form(low)},\\,{form(high)}]}}"
