"""Drawing of label budgets from the training part: random, stratified by diagnosis, nested, and kept in files."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.budget_spec import BudgetSpec, Spending, parse_spec
from tissuebench.datasets.labels.purchase import (
    Offer,
    Purchase,
    Unit,
    buy_minutes,
    buy_patients,
    decimal,
    least_minutes,
)
from tissuebench.datasets.splits import Split, stratum_of
from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.store.tissue import MIN_TISSUE_SHARE
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError, DataError

ALL_ON_MASKS = Spending()
_RULE = 2
"""Raised if the same data would be drawn differently: budgets of an earlier rule stay on disk and are not used."""


def annotated_tiles(store: TileStore, slide_id: str) -> NDArray[np.bool_]:
    """Return which tiles of ``tiling.grid`` have an annotated pixel, (N,) bool: those whose mask can be bought."""
    annotated: NDArray[np.bool_] = store.withheld.tile_class_pixels(slide_id).sum(axis=1) > 0
    return annotated


def taggable_tiles(store: TileStore, slide_id: str) -> NDArray[np.bool_]:
    """Return which tiles of ``tiling.grid`` have tags that can be bought, (N,) bool.

    If the source tags the slide as a whole these are all its tiles, otherwise the annotated ones with tissue: the
    content of unannotated tiles is unknown.
    """
    tissue = store.tile_tissue(slide_id)
    if store.withheld.tags(slide_id) is not None:
        return np.ones(len(tissue), dtype=np.bool_)
    return annotated_tiles(store, slide_id) & (tissue >= MIN_TISSUE_SHARE)


def slide_tags(store: TileStore, slide_id: str) -> NDArray[np.bool_] | None:
    """Return the classes that the source assigns to the slide as a whole, (K,) bool; None if it assigns none."""
    tags = store.withheld.tags(slide_id)
    return None if tags is None else np.array([name in tags for name in store.class_map.names])


def offer(store: TileStore, split: Split, kind: Supervision) -> Offer:
    """Return the ``masks`` or ``tags`` of the training part that can be bought.

    Whether a tile is annotated at all decides if it is for sale; nothing depends on what its label says.
    """
    masks = kind is Supervision.MASKS
    tiles_for_sale = annotated_tiles if masks else taggable_tiles
    slides: dict[str, list[SlideInfo]] = defaultdict(list)
    n_tiles: Counter[str] = Counter()
    for slide in _training_slides(store, split):
        count = int(np.count_nonzero(tiles_for_sale(store, slide.slide_id)))
        if count:
            slides[slide.patient_id].append(slide)
            n_tiles[slide.patient_id] += count

    def units(patient: str) -> list[Unit]:
        found: list[Unit] = []
        for slide in slides[patient]:
            flags = tiles_for_sale(store, slide.slide_id).tolist()
            tiles = tuple(t for t, sold in zip(grid(slide, store.info.tile_px), flags, strict=True) if sold)
            whole = not masks and store.withheld.tags(slide.slide_id) is not None
            found += [tiles] if whole else [(tile,) for tile in tiles]
        return found

    costs = store.info.costs
    return Offer(
        minutes_per_tile=costs.mask_minutes_per_tile if masks else costs.tags_minutes_per_tile,
        opening_minutes_per_slide=costs.opening_minutes_per_slide,
        n_tiles=n_tiles,
        n_slides={patient: len(found) for patient, found in slides.items()},
        diagnoses=_strata(store, split),
        units=units,
    )


def _strata(store: TileStore, split: Split) -> dict[str, str]:
    """Return the diagnosis by which each training patient is drawn; none where diagnoses must be bought."""
    free = store.info.costs.diagnosis_minutes_per_case == 0
    found: dict[str, list[str]] = defaultdict(list)
    for slide in _training_slides(store, split):
        found[slide.patient_id] += store.withheld.diagnosis(slide.slide_id) if free else ()
    return {patient: stratum_of(diagnoses) for patient, diagnoses in found.items()}


def diagnosis_purchase(store: TileStore, split: Split) -> Purchase:
    """Return the purchase of all training patients' diagnoses: a method that uses diagnoses gets all of them."""
    slides = _training_slides(store, split)
    patients = sorted({slide.patient_id for slide in slides if store.withheld.diagnosis(slide.slide_id)})
    return Purchase(tuple(patients), minutes=len(patients) * store.info.costs.diagnosis_minutes_per_case)


def draw_budget(
    store: TileStore, split: Split, spec: str, replicate: int, spending: Spending = ALL_ON_MASKS
) -> LabelBudget:
    """Draw a budget from the training part.

    Patients are drawn at random, stratified by diagnosis where that is free (``purchase.purchase_order``), and minutes
    are spread over them (``purchase.Offer.in_turn``). No draw depends on the content of a mask or tag. A budget that
    buys all labels for sale is the same in every draw, and its replicate is 0.

    Args:
        store: the labels.
        split: split whose training part is sold.
        spec: see ``budget_spec.parse_spec``.
        replicate: number of the draw.
        spending: division of a budget in minutes; ignored for other budgets.

    Raises:
        ConfigError: invalid specification, more than available, or minutes that do not buy one tile of every kind.

    Examples:
        >>> store = TileStore(Path("data/synthetic/store.zarr"))
        >>> split = Split.read(Path("data/synthetic/split.json"))
        >>> len(draw_budget(store, split, "masks:3p", replicate=0).patients)
        3
    """
    parsed = parse_spec(spec)
    if parsed.kind is None:
        offers, purchases = _spend(store, split, parsed, replicate, spending)
    else:
        found = offer(store, split, parsed.kind)
        offers = {parsed.kind: found}
        purchases = {parsed.kind: buy_patients(found, parsed.patients_of(len(found.n_tiles)), replicate)}
    everything = all(purchases[kind] == found.everything for kind, found in offers.items())
    return LabelBudget.of_purchases(
        spec,
        0 if everything else replicate,
        split.sha256,
        "" if parsed.kind else str(spending),
        purchases,
        everything,
    )


def _spend(
    store: TileStore, split: Split, spec: BudgetSpec, replicate: int, spending: Spending
) -> tuple[dict[Supervision, Offer], dict[Supervision, Purchase]]:
    """Return the labels that were for sale, and those that the minutes bought."""
    offers: dict[Supervision, Offer] = {}
    purchases: dict[Supervision, Purchase] = {}
    minutes = left = decimal(spec.minutes or 0.0)
    if spending.diagnoses:
        diagnoses = purchases[Supervision.DIAGNOSIS] = diagnosis_purchase(store, split)
        left -= decimal(diagnoses.minutes)
        if left < 0:
            raise ConfigError(
                f"budget {spec.text!r} does not pay for the diagnoses of {len(diagnoses.patients)} training patients, "
                f"which come first and cost {_rounded_up(decimal(diagnoses.minutes))} minutes"
            )
    least: dict[Supervision, Fraction] = {}
    for kind, share in spending.shares.items():
        found = offers[kind] = offer(store, split, kind)
        if not found.n_tiles:
            raise ConfigError(f"budget {spec.text!r}: no patient of the training part has {kind}")
        purchases[kind] = buy_minutes(found, decimal(share) * left, replicate)
        if not purchases[kind].n_tiles:
            least[kind] = minutes - left + least_minutes(found, replicate) / decimal(share)
    if least:
        kind = max(least, key=lambda one: least[one])
        raise ConfigError(
            f"budget {spec.text!r} buys no tile with {kind}; "
            f"the smallest that does is 'minutes:{_rounded_up(least[kind])}'"
        )
    return offers, purchases


def persisted_budget(
    folder: Path,
    store: TileStore,
    split: Split,
    spec: str,
    replicate: int,
    spending: Spending = ALL_ON_MASKS,
    write: bool = True,
) -> LabelBudget:
    """Return the budget stored in ``folder``; draw it if necessary, and write it unless ``write`` is False.

    A budget of everything has one file, whatever draw is asked for.

    Raises:
        DataError: the file was edited, or holds a different budget.
        ConfigError: see ``draw_budget``.
    """
    parsed = parse_spec(spec)  # a valid spec is safe as a file name
    spent_on = "" if parsed.kind else str(spending)
    drawn_from = content_hash([_RULE, store.content_hash, split.sha256])
    name = "-".join(filter(None, (parsed.file_name, spent_on)))

    def stored(number: int) -> tuple[Path, dict[str, Json]]:
        asked: dict[str, Json] = {"spec": spec, "replicate": number, "split_sha256": split.sha256, "spending": spent_on}
        return folder / drawn_from[:12] / f"{name}-r{number}.json", asked

    first = _read(*stored(0))
    if first is not None and (first.everything or replicate == 0):
        return first
    budget = _read(*stored(replicate))
    if budget is None:
        budget = draw_budget(store, split, spec, replicate, spending)
        if write:
            write_hashed_json(stored(budget.replicate)[0], budget.document())
    return budget


def _read(path: Path, asked: Mapping[str, Json]) -> LabelBudget | None:
    """Return the budget in a file; None if there is no file."""
    if not path.exists():
        return None
    document, _ = read_hashed_json(path)
    if {key: document.get(key) for key in asked} != asked:
        raise DataError(f"{path}: holds a different budget than its name says; delete it")
    try:
        return LabelBudget.of_document(document)
    except DataError as error:
        raise DataError(f"{path}: {error}; delete it") from None


def _training_slides(store: TileStore, split: Split) -> list[SlideInfo]:
    train = set(split.patients("train"))
    return [slide for slide in store.slides.values() if slide.patient_id in train]


def _rounded_up(minutes: Fraction) -> str:
    """Format minutes with as few digits as possible, rounded up so that they suffice."""
    return f"{math.ceil(minutes * 10**6) / 10**6:.6f}".rstrip("0").rstrip(".")
