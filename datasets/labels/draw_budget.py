"""Drawing of label budgets from the training part: nested, stratified, seeded, and kept in files."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.documents import read_hashed_json, write_hashed_json
from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.budget_spec import BudgetSpec, Spending, parse_spec
from tissuebench.datasets.labels.purchase import Offer, Purchase, Unit, buy_minutes, buy_patients, least_minutes
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.store.tissue import MIN_TISSUE_SHARE
from tissuebench.datasets.types import Supervision
from tissuebench.datasets.weak_labels import tags_of_counts
from tissuebench.errors import ConfigError, DataError

ALL_ON_MASKS = Spending()


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
    """Return the ``masks`` or ``tags`` of the training part that can be bought."""
    masks = kind is Supervision.MASKS
    tiles_for_sale = annotated_tiles if masks else taggable_tiles
    slides: dict[str, list[SlideInfo]] = defaultdict(list)
    strata: dict[str, str] = {}
    classes: dict[str, frozenset[int]] = defaultdict(frozenset)
    n_tiles: dict[str, int] = defaultdict(int)
    for slide in _training_slides(store, split):
        slides[slide.patient_id].append(slide)
        diagnosis = ";".join(sorted(store.withheld.diagnosis(slide.slide_id)))
        strata[slide.patient_id] = max(diagnosis, strata.get(slide.patient_id, ""))
        for_sale = tiles_for_sale(store, slide.slide_id)
        n_tiles[slide.patient_id] += int(np.count_nonzero(for_sale))
        classes[slide.patient_id] |= _classes_shown(store, slide.slide_id, kind, for_sale)

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
        n_tiles={patient: count for patient, count in n_tiles.items() if count},
        strata={patient: stratum for patient, stratum in strata.items() if n_tiles[patient]},
        classes=classes,
        units=units,
    )


def _classes_shown(store: TileStore, slide_id: str, kind: Supervision, for_sale: NDArray[np.bool_]) -> frozenset[int]:
    if kind is Supervision.MASKS:
        return frozenset(index for index, count in enumerate(store.withheld.class_pixels(slide_id)) if count)
    given = slide_tags(store, slide_id)
    if given is not None:
        return frozenset(np.flatnonzero(given).tolist())
    counts = store.withheld.tile_class_pixels(slide_id)[for_sale]
    shown = tags_of_counts(counts, store.info.min_tag_share)
    return frozenset(np.flatnonzero(shown.any(axis=0)).tolist())


def diagnosis_purchase(store: TileStore, split: Split) -> Purchase:
    """Return the purchase of all training patients' diagnoses: a method that uses diagnoses gets all of them."""
    slides = _training_slides(store, split)
    patients = sorted({slide.patient_id for slide in slides if store.withheld.diagnosis(slide.slide_id)})
    return Purchase(tuple(patients), minutes=len(patients) * store.info.costs.diagnosis_minutes_per_case)


def draw_budget(
    store: TileStore, split: Split, spec: str, replicate: int, spending: Spending = ALL_ON_MASKS
) -> LabelBudget:
    """Draw a budget from the training part.

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
        purchases = _spend(store, split, parsed, replicate, spending)
    else:
        found = offer(store, split, parsed.kind)
        purchases = {parsed.kind: buy_patients(found, parsed.patients_of(len(found.n_tiles)), replicate)}
    spent_on = "" if parsed.kind else str(spending)
    return LabelBudget.of_purchases(spec, replicate, split.sha256, spent_on, purchases)


def _spend(
    store: TileStore, split: Split, spec: BudgetSpec, replicate: int, spending: Spending
) -> dict[Supervision, Purchase]:
    purchases: dict[Supervision, Purchase] = {}
    left = spec.minutes or 0.0
    if spending.diagnoses:
        diagnoses = purchases[Supervision.DIAGNOSIS] = diagnosis_purchase(store, split)
        left -= diagnoses.minutes
        if left < 0:
            raise ConfigError(
                f"budget {spec.text!r} does not pay for the diagnoses of {len(diagnoses.patients)} training patients, "
                f"which come first and cost {_rounded_up(diagnoses.minutes)} minutes"
            )
    least: dict[Supervision, float] = {}
    for kind, share in spending.shares.items():
        found = offer(store, split, kind)
        if not found.n_tiles:
            raise ConfigError(f"budget {spec.text!r}: no patient of the training part has {kind}")
        purchases[kind] = buy_minutes(found, share * left, replicate)
        if not purchases[kind].n_tiles:
            least[kind] = (spec.minutes or 0.0) - left + least_minutes(found, replicate) / share
    if least:
        kind = max(least, key=lambda one: least[one])
        raise ConfigError(
            f"budget {spec.text!r} buys no tile with {kind}; "
            f"the smallest that does is 'minutes:{_rounded_up(least[kind])}'"
        )
    return purchases


def persisted_budget(
    folder: Path, store: TileStore, split: Split, spec: str, replicate: int, spending: Spending = ALL_ON_MASKS
) -> LabelBudget:
    """Return the budget stored in ``folder``; draw and write it first if necessary.

    Raises:
        DataError: the file was edited, or holds a different budget.
        ConfigError: see ``draw_budget``.
    """
    parsed = parse_spec(spec)  # a valid spec is safe as a file name
    spent_on = "" if parsed.kind else str(spending)
    drawn_from = content_hash([store.content_hash, split.sha256])
    name = "-".join(filter(None, (parsed.file_name, spent_on, f"r{replicate}")))
    path = folder / drawn_from[:12] / f"{name}.json"
    if not path.exists():
        budget = draw_budget(store, split, spec, replicate, spending)
        write_hashed_json(path, budget.document())
        return budget
    document, _ = read_hashed_json(path)
    asked: dict[str, Json] = {
        "spec": spec,
        "replicate": replicate,
        "split_sha256": split.sha256,
        "spending": spent_on,
    }
    if {key: document.get(key) for key in asked} != asked:
        raise DataError(f"{path}: holds a different budget than its name says; delete it")
    try:
        return LabelBudget.of_document(document)
    except DataError as error:
        raise DataError(f"{path}: {error}; delete it") from None


def _training_slides(store: TileStore, split: Split) -> list[SlideInfo]:
    train = set(split.patients("train"))
    return [slide for slide in store.slides.values() if slide.patient_id in train]


def _rounded_up(minutes: float) -> str:
    """Format minutes with as few digits as possible, rounded up so that they suffice."""
    return f"{math.ceil(minutes * 1e6 - 1e-6) / 1e6:.6f}".rstrip("0").rstrip(".")
