"""Terminal output of the choice among variants (rich)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tissuebench.results.render.method_names import short_names
from tissuebench.results.render.terminal import plain_table, short, signed
from tissuebench.results.tables.best_variant import VariantRow


def render_variants(rows: Sequence[VariantRow], console: Console) -> None:
    """Print one table per dataset and method, with a sentence on the choice at each budget. Fits 120 columns."""
    for (dataset, method), group in itertools.groupby(rows, key=lambda row: (row.dataset, row.method)):
        of_method = list(group)
        names, settings = short_names({row.variant for row in of_method})
        patients = of_method[0].n_patients
        table = plain_table(f"\n{dataset}: variants of {method}, on {patients} patients of the validation part")
        for name in ("budget", "variant", "mIoU [low, high]", "difference to the best", "p (Holm)", "runs"):
            table.add_column(Text(name), overflow="fold")
        sentences = []
        for i, (budget, variants) in enumerate(itertools.groupby(of_method, key=lambda row: row.budget)):
            if i:
                table.add_row()
            at_budget = list(variants)
            for row in at_budget:
                style = "bold" if row.chosen else ""
                table.add_row(*map(Text, (budget, names[row.variant], *_numbers(row))), style=style)
            sentences.append(_choice(budget, at_budget, names))
        console.print(table)
        for name, said in settings.items():
            console.print(Text(f"{name}: with {said}"))
        for sentence in sentences:
            console.print(Text(sentence))


def _numbers(row: VariantRow) -> tuple[str, str, str, str]:
    score = "-" if row.mean is None or row.low is None or row.high is None else (
        f"{short(row.mean)} [{short(row.low)}, {short(row.high)}]"
    )  # fmt: skip
    diff = "" if row.diff is None or row.diff_low is None or row.diff_high is None else (
        f"{signed(row.diff)} [{signed(row.diff_low)}, {signed(row.diff_high)}]"
    )  # fmt: skip
    runs = str(row.n_runs) + (f" of {row.n_runs + row.n_missing}" if row.n_missing else "")
    failed = f", {row.n_failed} failed" if row.n_failed else ""
    return score, diff, "" if row.p_holm is None else f"{row.p_holm:.2g}", runs + failed


def _choice(budget: str, rows: Sequence[VariantRow], names: dict[str, str]) -> str:
    """Return which variant is chosen at a budget, which ones are as good as it, and which are incomplete."""
    best = next((row for row in rows if row.chosen), None)
    lacking = [names[row.variant] for row in rows if not row.is_complete]
    if best is None:
        return f"{budget}: no variant has finished all runs ({', '.join(lacking)}): no choice"
    sentence = f"{budget}: {names[best.variant]} has the best mean"
    if equal := [names[row.variant] for row in rows if row is not best and row.is_complete and row.mean == best.mean]:
        sentence += f", equal to that of {', '.join(equal)}"
    if tied := [names[row.variant] for row in rows if row.tie and not row.chosen]:
        sentence += f"; these runs and patients do not tell it from {', '.join(tied)}"
    if best.n_runs == 1:
        sentence += "; with a single run, another draw or seed may decide otherwise"
    if lacking:
        sentence += f"; incomplete and not considered: {', '.join(lacking)}"
    return sentence
