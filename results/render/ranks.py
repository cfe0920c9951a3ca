"""Terminal tables of average ranks (rich)."""

from __future__ import annotations

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
    """Print ranks by budget, one table per metric and set of datasets. Fits 120 columns.

    Methods that share a letter belong to the same one of the ``groups``, within Nemenyi's critical difference.
    """
    dash = "\N{EN DASH}" if console.encoding.lower().startswith("utf") else "-"
    tables: dict[tuple[str, tuple[str, ...]], list[Ranking]] = {}
    for ranking in rankings:
        tables.setdefault((ranking.metric, ranking.datasets), []).append(ranking)
    for (metric, datasets), group in tables.items():
        short, settings = short_names({row.method for ranking in group for row in ranking.rows})
        console.print(Text(f"\n{', '.join(datasets)}: mean rank over datasets ({metric}), 1 is best", style="italic"))
        table = plain_table("")
        for name in ("budget", "method", "mean rank", "alike"):
            table.add_column(name, overflow="fold")
        for name in ("datasets", "critical\ndifference", "Friedman\np"):
            table.add_column(name, justify="right")
        for i, ranking in enumerate(group):
            if i:
                table.add_row()
            about = [str(len(datasets)), f"{ranking.critical_difference:.2f}", f"{ranking.friedman_p:.2g}"]
            for row in ranking.rows:
                alike = _letters(row.method, ranking.groups) or dash
                table.add_row(*map(Text, (ranking.budget, short[row.method], f"{row.rank:.2f}", alike, *about)))
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
