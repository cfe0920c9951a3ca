"""Contents of budgets (``tissuebench data budgets``): the labels they buy, before anything is trained on them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.budget_spec import Spending, parse_spec
from tissuebench.datasets.labels.draw_budget import ALL_ON_MASKS, draw_budget
from tissuebench.datasets.labels.purchase import Purchase
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import IGNORE_LABEL, Supervision, Tile


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """Labels of one kind that one draw of a budget buys.

    Attributes:
        budget, replicate: budget and draw; 0 if everything was bought.
        everything: whether all labels for sale were bought, so that there is no draw.
        spending: how minutes are shared out; empty for a budget in patients.
        kind: ``masks``, ``tags`` or ``diagnosis``.
        patients: patients whose labels were bought, in full or in part.
        whole_patients: patients bought in full.
        slides: slides with a bought tile; for diagnoses, slides of the patients.
        tiles: tiles that were paid for; 0 for diagnoses.
        minutes: their cost, that of opening their slides included; also in ``hours``.
        budget_minutes: cost of all kinds of labels of this draw.
        assumed_minutes: price of one tile, or of one case for diagnoses. An assumption of the dataset.
        opening_minutes: price of opening a slide; 0 for diagnoses. Likewise.
        min_tag_share: minimum share of a tile's annotated pixels for its tags to name a class; None for other kinds.
        untagged_tiles: tiles whose tags name no class; 0 for other kinds.
        class_tiles: tiles that show the class, or whose tags name it; empty for diagnoses.
        class_pixels: annotated pixels of the class, each counted once; empty for tags and diagnoses.
    """

    budget: str
    replicate: int
    everything: bool
    spending: str
    kind: str
    patients: int
    whole_patients: int
    slides: int
    tiles: int
    minutes: float
    hours: float
    budget_minutes: float
    assumed_minutes: float
    opening_minutes: float
    min_tag_share: float | None
    untagged_tiles: int
    class_tiles: Mapping[str, int]
    class_pixels: Mapping[str, int]


def describe_budgets(
    store: TileStore,
    split: Split,
    specs: Sequence[str],
    replicates: Sequence[int] = (0,),
    spendings: Sequence[Spending] = (ALL_ON_MASKS,),
) -> list[BudgetRow]:
    """Return one row per budget, draw and kind of label; budgets in minutes once for each of ``spendings``.

    A budget of everything is the same in every draw and has one row.

    Raises:
        ConfigError: a budget that cannot be parsed, or cannot be bought.
    """
    rows: list[BudgetRow] = []
    for spec in specs:
        for spending in (ALL_ON_MASKS,) if parse_spec(spec).kind else spendings:
            drawn = (draw_budget(store, split, spec, replicate, spending) for replicate in replicates)
            for budget in dict.fromkeys(drawn):
                rows += [_row(store, split, budget, kind) for kind in budget.purchases]
    return rows


def to_json(rows: Sequence[BudgetRow]) -> str:
    """Return the rows as a JSON list of objects, with keys as in ``BudgetRow``."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def print_budgets(console: Console, rows: Sequence[BudgetRow]) -> None:
    """Print a table, followed by the assumptions behind its minutes."""
    if not rows:
        console.print(Text("no budgets"))
        return
    classes = list(dict.fromkeys(name for row in rows for name in row.class_tiles))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("budget", "draw", "labels"):
        table.add_column(name, no_wrap=True)
    for name in ("patients", "slides", "tiles", "minutes", "hours"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in classes:
        table.add_column(Text(name), justify="right", overflow="fold", min_width=6)
    for row in rows:
        partly = "" if row.whole_patients == row.patients else f"\n{row.patients - row.whole_patients} in part"
        draw = "-" if row.everything else str(row.replicate)
        cells = [row.budget, draw, row.kind, f"{row.patients}{partly}", str(row.slides)]
        cells += [str(row.tiles) if row.class_tiles else "-", f"{row.minutes:.4g}", f"{row.hours:.3g}"]
        table.add_row(*map(Text, [*cells, *(_of_class(row, name) for name in classes)]))
    console.print(table)
    console.print(Text("\nFor each class: tiles that show it, and below them its annotated pixels."))
    prices = {row.kind: row.assumed_minutes for row in rows}
    said = [f"{_LABELS[kind]} {minutes:g} min a {_UNITS[kind]}" for kind, minutes in prices.items()]
    opening = max(row.opening_minutes for row in rows)
    said.append(f"opening a slide takes {opening:g} min")
    console.print(Text(f"Minutes are assumed, not measured: {', '.join(said)} (costs of the dataset)."))
    tags = [row for row in rows if row.min_tag_share is not None]
    if tags:
        untagged = max(row.untagged_tiles for row in tags)
        none = f"; those of up to {untagged} tiles name none" if untagged else ""
        rule = f"Tags list the classes that cover at least {tags[0].min_tag_share:.4g} of a tile's annotated pixels"
        console.print(Text(f"{rule}{none}."))


_LABELS = {"masks": "a mask takes", "tags": "tags take", "diagnosis": "a diagnosis takes"}
_UNITS = {"masks": "tile with an annotated pixel", "tags": "tile", "diagnosis": "case"}


def _of_class(row: BudgetRow, name: str) -> str:
    if not row.class_tiles:
        return "-"
    pixels = _short(row.class_pixels[name]) if row.class_pixels else "-"
    return f"{row.class_tiles[name]}\n{pixels}"


def _short(count: int) -> str:
    """Abbreviate a count, for example 1234567 to 1.2M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _row(store: TileStore, split: Split, budget: LabelBudget, kind: Supervision) -> BudgetRow:
    bought: Purchase = budget.purchases[kind]
    names, costs = store.class_map.names, store.info.costs
    class_tiles: dict[str, int] = {}
    class_pixels: dict[str, int] = {}
    # The same label view as in training, so that the table shows what a method would see.
    view = LabelView.for_training(store, split, budget, frozenset({kind}))
    if kind is Supervision.DIAGNOSIS:
        slides = {slide.slide_id for slide in view.slides if slide.patient_id in bought.patients}
        price = costs.diagnosis_minutes_per_case
    else:
        masks = kind is Supervision.MASKS
        tiles = view.mask_tiles() if masks else view.tag_tiles()
        slides = {tile.slide_id for tile in tiles}
        shown = view.shown_by_masks(tiles) if masks else view.tags_of(tiles)
        class_tiles = dict(zip(names, shown.sum(axis=0).tolist(), strict=True))
        price = costs.mask_minutes_per_tile if masks else costs.tags_minutes_per_tile
        if masks:
            pixels = _pixels(view, tiles, store.info.tile_px).tolist()
            class_pixels = dict(zip(names, pixels, strict=True))
    part = {store.slides[tile.slide_id].patient_id for tile in bought.tiles}
    return BudgetRow(
        budget=budget.spec,
        replicate=budget.replicate,
        everything=budget.everything,
        spending=budget.spending,
        kind=kind.value,
        patients=len(bought.patients) + len(part),
        whole_patients=len(bought.patients),
        slides=len(slides),
        tiles=bought.n_tiles,
        minutes=bought.minutes,
        hours=bought.minutes / 60,
        budget_minutes=budget.minutes,
        assumed_minutes=price,
        opening_minutes=0.0 if kind is Supervision.DIAGNOSIS else costs.opening_minutes_per_slide,
        min_tag_share=store.info.min_tag_share if kind is Supervision.TAGS else None,
        untagged_tiles=view.n_untagged if kind is Supervision.TAGS else 0,
        class_tiles=class_tiles,
        class_pixels=class_pixels,
    )


def _pixels(view: LabelView, tiles: Sequence[Tile], tile_px: int) -> NDArray[np.int64]:
    """Return the annotated pixels of each class in the union of ``tiles``, (K,) int64."""
    total = np.zeros(len(view.class_map), dtype=np.int64)
    slides = {slide.slide_id: slide for slide in view.slides}
    for slide_id, group in groupby(tiles, key=lambda tile: tile.slide_id):
        whole = view.class_pixels(slides[slide_id])
        total += _pixels_of_tiles(view, list(group), tile_px) if whole is None else np.array(whole)
    return total


def _pixels_of_tiles(view: LabelView, tiles: Sequence[Tile], tile_px: int) -> NDArray[np.int64]:
    # Tiles overlap where the last row and column were shifted back to the edge; pixels counted before are blanked.
    counts = np.zeros(256, dtype=np.int64)
    rows: dict[int, list[int]] = defaultdict(list)
    for tile in tiles:
        mask = view.mask(tile, tile_px, tile_px)
        for y in rows:
            if abs(y - tile.y) < tile_px:
                height = slice(max(0, y - tile.y), y - tile.y + tile_px)
                for x in rows[y]:
                    if abs(x - tile.x) < tile_px:
                        mask[height, max(0, x - tile.x) : x - tile.x + tile_px] = IGNORE_LABEL
        rows[tile.y].append(tile.x)
        counts += np.bincount(mask.ravel(), minlength=256)
    return counts[: len(view.class_map)]
