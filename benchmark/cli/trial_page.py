"""Rendering of ``tissuebench trial show`` and ``trial list``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tissuebench.common.hashing import Json, canonical_json
from tissuebench.results.records.pseudo_mask_quality import DIAGNOSTIC
from tissuebench.results.tables.trial_list import TrialRow

_SECTIONS = ("budget", "settings", "identity", "scores", "seconds", "compute", "environment")


def render(described: Mapping[str, Json]) -> Group:
    """``described`` as ``describe_trial`` gives it."""
    trial = cast("dict[str, Any]", described)
    state = trial["state"] + (f", by {trial['holder']}" if trial["holder"] else "")
    parts: list[Text | Table] = [Text(f"{trial['trial']}  {trial['title']}: {state}", style="bold")]
    table = Table.grid(padding=(0, 2))
    for name in ("dataset", "method", "seed"):
        table.add_row(Text(name), Text(str(trial[name])))
    for section in _SECTIONS:
        for key, value in _flat(trial[section] or {}):
            table.add_row(Text(f"{section}.{key}", style="dim"), Text(value))
    for shared in trial["shared"]:
        table.add_row(Text("shared", style="dim"), Text(f"{shared['name']} {shared['key']} {shared['state']}"))
    for path in trial["files"]:
        table.add_row(Text("file", style="dim"), Text(path))
    parts.append(table)
    parts += [Text(line) for stage, pseudo in trial["pseudo_masks"].items() for line in _of_pseudo_masks(stage, pseudo)]
    parts += [Text(line) for stage, look in trial["snapshots"].items() for line in _of_snapshot(stage, look)]
    parts += [Text(_of_curves(stage, last)) for stage, last in trial["curves"].items()]
    parts += [Text(f"note: {text}", style="yellow") for text in trial["notes"]]
    if failure := trial["failure"]:
        parts.append(Text(f"FAILED: {failure['reason']}", style="red"))
        parts += [Text(failure["traceback"].rstrip())] if failure["traceback"] else []
    return Group(*parts)


def render_list(rows: Sequence[TrialRow]) -> Table:
    """Return a table of trials; the score names the part of the split that it was computed on."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("trial", "dataset", "method", "budget", "draw", "seed", "state", "mIoU", "on"):
        table.add_column(name, justify="right" if name in ("draw", "seed", "mIoU") else "left", no_wrap=True)
    for row in rows:
        score = "-" if row.miou is None else f"{row.miou:.4f}"
        cells = (row.trial, row.dataset, row.method, row.budget, str(row.replicate), str(row.seed), row.state, score)
        table.add_row(*map(Text, (*cells, row.part or "-")), style="red" if row.state == "failed" else "")
    return table


def _of_pseudo_masks(stage: str, pseudo: Mapping[str, Any]) -> Iterator[str]:
    """Lines of their own: in the table above, where a long name takes the room, numbers and paths would be cut off."""
    yield f"pseudo-masks of {stage}, {pseudo['tiles']} training tiles against withheld masks ({DIAGNOSTIC}):"
    for layer, of_layer in pseudo["layers"].items():
        miou = "-" if of_layer["miou"] is None else f"{of_layer['miou']:.4f}"
        yield f"  {' '.join(layer.split())}: mIoU {miou}, coverage {of_layer['coverage']:.4f}"
    if pseudo["picture"] is not None:
        yield f"  picture: {pseudo['picture']}"


def _of_snapshot(stage: str, look: Mapping[str, Any]) -> Iterator[str]:
    figures = dict(look["figures"])
    said = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items() if name != "step")
    yield f"{stage} after step {figures['step']:g}: {said} ({DIAGNOSTIC})"
    yield f"  picture: {look['picture']}"


def _of_curves(stage: str, last: Mapping[str, Any]) -> str:
    values = {name: "not finite" if one["value"] is None else f"{one['value']:.4g}" for name, one in last.items()}
    step, of_stage = max(one["step"] for one in last.values()), f" of {stage}" if stage else ""
    return f"last values{of_stage}, step {step}: {', '.join(f'{name} {value}' for name, value in values.items())}"


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from ((f"{key}.{inner}", text) for inner, text in _flat(value))
        elif isinstance(value, float):
            yield key, f"{value:.6g}"
        elif isinstance(value, str):
            yield key, value
        elif value is not None:
            yield key, canonical_json(value)
