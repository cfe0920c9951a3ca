"""Terminal tables of average ranks (rich)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from tissuebench.results.render.method_names import short_names
from tissuebench.results.render.terminal import plain_table

if TYPE_CHECKING:
    from tissuebench.results.tables.ranks import Ranking

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def render_rankings(rankings: Sequence[Ranking], console: Console) -> None:
    """Print ranks by budget, one table per metric and set of blocks. Fits 120 columns.

    Methods that share a letter belong to the same one of the ``groups``, within Nemenyi's critical difference.
    """
    dash = "\N{EN DASH}" if console.encoding.lower().startswith("utf") else "-"
    tables: dict[tuple[str, str, tuple[str, ...]], list[Ranking]] = {}
    for ranking in rankings:
        tables.setdefault((ranking.metric, ranking.blocks, ranking.datasets), []).append(ranking)
    for (metric, blocks, datasets), group in tables.items():
        short, settings = short_names({row.method for ranking in group for row in ranking.rows})
        console.print(Text(f"\n{', '.join(datasets)}: ranks over {blocks} ({metric}), 1 is best", style="italic"))
        table = plain_table("")
        for name in ("budget", "method"):
            table.add_column(name, overflow="fold")
        table.add_column(Text("mean rank [low, high]"))
        table.add_column("alike")
        for name in (blocks, "critical\ndifference", "Friedman\np"):
            table.add_column(name, justify="right")
        for i, ranking in enumerate(group):
            if i:
                table.add_row()
            about = [str(ranking.n_blocks), _number(ranking.critical_difference, ".2f", dash)]
            about.append(_number(ranking.friedman_p, ".2g", dash))
            for row in ranking.rows:
                ends = [_number(end, ".2f", dash) for end in (row.low, row.high)]
                rank = f"{row.rank:.2f} [{', '.join(ends)}]"
                alike = _letters(row.method, ranking.groups) or dash
                table.add_row(*map(Text, (ranking.budget, short[row.method], rank, alike, *about)))
                about = [""] * len(about)
        console.print(table)
        for method, said in settings.items():
            console.print(Text(f"{method}: with {said}"))
    if rankings:
        console.print(
            Text(
                "\nMethods that share a letter differ by less than the critical difference (Nemenyi, 5 %); a Friedman "
                "p above .05 does not tell any of them apart."
            )
        )


def _letters(method: str, groups: Sequence[Sequence[str]]) -> str:
    return "".join(_ALPHABET[i % len(_ALPHABET)] for i, group in enumerate(groups) if method in group)


def _number(value: float | None, form: str, unknown: str) -> str:
    return unknown if value is None or not math.isfinite(value) else format(value, form)
