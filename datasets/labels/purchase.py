"""Purchase of labels with an annotator's time: whole patients in a drawn order, then single tiles for the rest."""

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
"""Smallest set of tiles that can be labelled: one tile, or all tiles of a slide that is tagged as a whole."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """Labels of one kind that were bought.

    Attributes:
        patients: patients bought in full, in the order of purchase.
        tiles: tiles of the one patient at whom the minutes ran out, in the order of purchase.
        n_tiles: total number of paid tiles, those of ``patients`` and ``tiles`` together.
        minutes: their cost.
    """

    patients: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    n_tiles: int = 0
    minutes: float = 0.0

    def document(self) -> dict[str, Json]:
        """Return the purchase as stored in a budget file."""
        return {
            "patients": list(self.patients),
            "tiles": [[tile.slide_id, tile.y, tile.x] for tile in self.tiles],
            "n_tiles": self.n_tiles,
            "minutes": self.minutes,
        }

    @classmethod
    def of_document(cls, document: Json) -> Purchase:
        """Return the purchase described by ``document``; raises KeyError, TypeError or ValueError if it is invalid."""
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
    """Labels of one kind that can be bought; patients without such labels are not included.

    Attributes:
        minutes_per_tile: the price.
        n_tiles: number of tiles of each patient, at least one.
        strata: diagnosis of each patient.
        classes: classes that each patient's labels show.
        units: function that returns the units of a patient; called for at most one patient per purchase.
    """

    minutes_per_tile: float
    n_tiles: Mapping[str, int]
    strata: Mapping[str, str]
    classes: Mapping[str, frozenset[int]]
    units: Callable[[str], Sequence[Unit]]

    def order(self, replicate: int) -> tuple[str, ...]:
        """Return the ``purchase_order`` of these patients."""
        return purchase_order(self.strata, self.classes, replicate)


def purchase_order(
    diagnoses: Mapping[str, str], classes: Mapping[str, frozenset[int]], replicate: int
) -> tuple[str, ...]:
    """Return the order in which patients are annotated; every budget is a prefix of it, so budgets are nested.

    At each step the patients that show most classes not seen yet come first; among them those whose diagnosis is most
    under-represented so far; ties are broken by the draw of ``replicate``.

    Args:
        diagnoses: stratum of each patient.
        classes: classes present in each patient's labels.
        replicate: number of the draw.

    Examples:
        >>> purchase_order({"p1": "A", "p2": "B"}, {"p1": frozenset({0}), "p2": frozenset({0, 1})}, replicate=0)
        ('p2', 'p1')
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
    """Return the purchase of the first ``count`` patients of the order, in full."""
    bought = offer.order(replicate)[:count]
    n_tiles = sum(offer.n_tiles[patient] for patient in bought)
    return Purchase(bought, (), n_tiles, n_tiles * offer.minutes_per_tile)


def buy_minutes(offer: Offer, minutes: float, replicate: int) -> Purchase:
    """Return the purchase of patients in order while the minutes pay for all their tiles, then units of the next one.

    The sequence of units depends only on ``replicate``; the minutes determine where it is cut. A purchase with fewer
    minutes is therefore contained in one with more.
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
    """Return the cost of the first unit: with less, ``buy_minutes`` buys nothing."""
    first = _in_drawn_order(offer, offer.order(replicate)[0], replicate)[0]
    return len(first) * offer.minutes_per_tile


def _in_drawn_order(offer: Offer, patient: str, replicate: int) -> list[Unit]:
    units = sorted(offer.units(patient), key=lambda unit: [(tile.slide_id, tile.y, tile.x) for tile in unit])
    rng = np.random.Generator(np.random.PCG64(derive_seed(replicate, "budget tiles", patient)))
    return [units[index] for index in rng.permutation(len(units))]
