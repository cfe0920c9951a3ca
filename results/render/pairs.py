"""Terminal tables of paired differences between methods (rich)."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tissuebench.results.render.method_names import short_names
from tissuebench.results.render.terminal import plain_table, signed
from tissuebench.results.tables.pairs import PairRow


def render_pairs(rows: Sequence[PairRow], console: Console) -> None:
    """Print paired differences a - b with p, one table per dataset and metric. Fits 120 columns."""
    short, settings = short_names({name for row in rows for name in (row.method_a, row.method_b)})
    tables: dict[tuple[str, str], list[PairRow]] = {}
    for row in rows:
        tables.setdefault((row.dataset, row.metric), []).append(row)
    for (dataset, metric), group in tables.items():
        console.print(Text(f"\n{dataset}: differences a - b of {metric}", style="italic"))
        table = plain_table("")
        for name in ("budget", "a", "b", "difference [low, high]", "p", "p (Holm)"):
            table.add_column(Text(name), overflow="fold")  # as a plain string, brackets would be markup
        table.add_column("runs", justify="right")
        budget = None
        for row in group:
            if budget not in (None, row.budget):
                table.add_row()
            budget = row.budget
            interval = "-" if row.diff is None else signed(row.diff)
            if row.low is not None and row.high is not None:
                interval += f" [{signed(row.low)}, {signed(row.high)}]"
            p = ["-" if value is None else f"{value:.2g}" for value in (row.p, row.p_holm)]
            names = (short[row.method_a], short[row.method_b])
            table.add_row(*map(Text, (row.budget, *names, interval, *p, str(row.n_runs))))
        console.print(table)
    for method, said in settings.items():
        console.print(Text(f"{method}: with {said}"))
    if rows:
        console.print(
            Text(
                "\np and the 95 % interval have one distribution: p < .05 where it leaves out 0. p (Holm) is adjusted "
                "over the pairs printed at a budget; those with full, which has all masks, among themselves."
            )
        )
