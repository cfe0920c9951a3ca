"""What an annotator's time buys: whole patients in a drawn order, then single tiles as far as the minutes reach."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from tissuebench.common.hashing import Json, derive_seed
from tissuebench.datasets.types import Tile

Unit = tuple[Tile, ...]
"""Tiles that are labelled together or not at all: one tile, or all tiles of a slide that is tagged as a whole."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """Labels of one kind that were bought.

    Attributes:
        patients: bought in full, in the order of purchase.
        tiles: of the one patient at whom the minutes ended, in the order of purchase.
        n_tiles: tiles that were paid for, those of ``patients`` and ``tiles`` together.
        minutes: what they cost.
    """

    patients: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    n_tiles: int = 0
    minutes: float = 0.0

    def document(self) -> dict[str, Json]:
        """As it stands in a budget file."""
        return {
            "patients": list(self.patients),
            "tiles": [[tile.slide_id, tile.y, tile.x] for tile in self.tiles],
            "n_tiles": self.n_tiles,
            "minutes": self.minutes,
        }

    @classmethod
    def of_document(cls, document: Json) -> Purchase:
        """The inverse of ``document``; KeyError, TypeError or ValueError where it is none."""
        found = cast("Mapping[str, Json]", document)
        tiles = cast("Sequence[tuple[str, int, int]]", found["tiles"])
        return cls(
            patients=tuple(cast("Sequence[str]", found["patients"])),
            tiles=tuple(Tile(slide_id, y, x) for slide_id, y, x in tiles),
            n_tiles=cast("int", found["n_tiles"]),
            minutes=float(cast("float", found["minutes"])),
        )


NOTHING = Purchase()


@dataclass(frozen=True, slots=True)
class Offer:
    """Labels of one kind that can be bought. Patients who have none of the kind are not in it.

    Attributes:
        minutes_per_tile: the price.
        n_tiles: tiles of each patient, at least one.
        strata: diagnosis of each patient.
        classes: classes that each patient's labels show.
        units: the tiles of a patient, as they are sold; asked for at most one patient a purchase.
    """

    minutes_per_tile: float
    n_tiles: Mapping[str, int]
    strata: Mapping[str, str]
    classes: Mapping[str, frozenset[int]]
    units: Callable[[str], Sequence[Unit]]

    def order(self, replicate: int) -> tuple[str, ...]:
        """``purchase_order`` of these patients."""
        return purchase_order(self.strata, self.classes, replicate)


def purchase_order(
    diagnoses: Mapping[str, str], classes: Mapping[str, frozenset[int]], replicate: int
) -> tuple[str, ...]:
    """The order in which patients are annotated; every budget is a prefix of it, so budgets are nested.

    At each step the patients that show most classes not seen yet come first; among them those whose diagnosis is most
    under-represented so far; among them the draw of ``replicate`` decides.

    Args:
        diagnoses: stratum of each patient.
        classes: classes present in each patient's labels.
        replicate: number of the draw.
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(replicate, "budget")))
    shuffled = sorted(diagnoses)
    rng.shuffle(shuffled)
    sizes = Counter(diagnoses.values())
    taken: Counter[str] = Counter()
    seen: set[int] = set()
    order: list[str] = []
    while shuffled:
        best = max(
            shuffled,
            key=lambda patient: (len(classes[patient] - seen), -taken[diagnoses[patient]] / sizes[diagnoses[patient]]),
        )
        shuffled.remove(best)
        order.append(best)
        seen |= classes[best]
        taken[diagnoses[best]] += 1
    return tuple(order)


def buy_patients(offer: Offer, count: int, replicate: int) -> Purchase:
    """The first ``count`` patients of the order, in full."""
    bought = offer.order(replicate)[:count]
    n_tiles = sum(offer.n_tiles[patient] for patient in bought)
    return Purchase(bought, (), n_tiles, n_tiles * offer.minutes_per_tile)


def buy_minutes(offer: Offer, minutes: float, replicate: int) -> Purchase:
    """Patients in their order as long as the minutes pay all their tiles, then units of the next one.

    The sequence of units depends on ``replicate`` alone, and the minutes only say where it is cut. Hence what fewer
    minutes bought is contained in what more minutes bought.
    """
    price = offer.minutes_per_tile
    affordable = math.floor(minutes / price + 1e-9) if price > 0 else math.inf
    n_tiles = 0
    whole: list[str] = []
    part: list[Tile] = []
    for patient in offer.order(replicate):
        if n_tiles + offer.n_tiles[patient] <= affordable:
            whole.append(patient)
            n_tiles += offer.n_tiles[patient]
            continue
        for unit in _in_drawn_order(offer, patient, replicate):
            if n_tiles + len(unit) > affordable:
                break
            part += unit
            n_tiles += len(unit)
        break
    return Purchase(tuple(whole), tuple(part), n_tiles, n_tiles * price)


def least_minutes(offer: Offer, replicate: int) -> float:
    """What the first unit costs: with less, ``buy_minutes`` buys nothing."""
    first = _in_drawn_order(offer, offer.order(replicate)[0], replicate)[0]
    return len(first) * offer.minutes_per_tile


def _in_drawn_order(offer: Offer, patient: str, replicate: int) -> list[Unit]:
    units = sorted(offer.units(patient), key=lambda unit: [(tile.slide_id, tile.y, tile.x) for tile in unit])
    rng = np.random.Generator(np.random.PCG64(derive_seed(replicate, "budget tiles", patient)))
    return [units[index] for index in rng.permutation(len(units))]
