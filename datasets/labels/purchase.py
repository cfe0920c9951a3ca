"""Purchase of labels with an annotator's time: whole patients in a drawn order, or their tiles in turn."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import numpy as np

from tissuebench.common.hashing import Json, derive_seed
from tissuebench.datasets.types import Tile

Unit = tuple[Tile, ...]
"""Smallest set of tiles of a slide that can be labelled: one tile, or all of a slide that is tagged as a whole."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """Labels of one kind that were bought.

    Attributes:
        patients: patients bought in full, in the order in which the last of their tiles was bought.
        tiles: tiles of the patients bought in part, in the order of purchase.
        n_tiles: total number of paid tiles, those of ``patients`` and ``tiles`` together.
        minutes: their cost, that of opening their slides included.
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

    Nothing in it depends on the content of a label, so no draw does.

    Attributes:
        minutes_per_tile: price of a tile.
        opening_minutes_per_slide: price of opening a slide, in addition to its tiles.
        n_tiles: number of tiles of each patient, at least one.
        n_slides: number of slides of each patient that have such a tile.
        diagnoses: diagnosis of each training patient, also of those without such labels.
        units: function that returns the units of a patient.
    """

    minutes_per_tile: float
    opening_minutes_per_slide: float
    n_tiles: Mapping[str, int]
    n_slides: Mapping[str, int]
    diagnoses: Mapping[str, str]
    units: Callable[[str], Sequence[Unit]]

    def order(self, replicate: int) -> tuple[str, ...]:
        """Return the ``purchase_order`` of these patients."""
        return purchase_order(self.diagnoses, self.n_tiles, replicate)

    def minutes(self, n_tiles: int, n_slides: int) -> Fraction:
        """Return the exact cost of this many tiles on this many slides."""
        return n_tiles * decimal(self.minutes_per_tile) + n_slides * decimal(self.opening_minutes_per_slide)

    @property
    def everything(self) -> Purchase:
        """All labels for sale. There is nothing to draw, so patients are in alphabetical order."""
        return _in_full(self, tuple(sorted(self.n_tiles)))

    def in_turn(self, replicate: int) -> Iterator[tuple[str, Unit]]:
        """Yield (patient, unit) in the order of purchase by the minute; what minutes buy is a prefix of it.

        Units are dealt in turn over the patients, who are in ``order``: the first one of each patient, the second one
        of each, and so on. Within a patient their order is drawn: an annotator samples fields over the slides.
        """
        piles = deque((patient, self._drawn_units(patient, replicate)) for patient in self.order(replicate))
        while piles:
            patient, pile = piles.popleft()
            unit = next(pile, None)
            if unit is not None:
                yield patient, unit
                piles.append((patient, pile))

    def _drawn_units(self, patient: str, replicate: int) -> Iterator[Unit]:
        # A generator, so that a patient whom the minutes never reach is not looked up.
        units = sorted(self.units(patient), key=lambda unit: [(tile.slide_id, tile.y, tile.x) for tile in unit])
        rng = np.random.Generator(np.random.PCG64(derive_seed(replicate, "budget tiles", patient)))
        yield from (units[index] for index in rng.permutation(len(units)))


def decimal(value: float) -> Fraction:
    """Return a number as it was written, to nine decimal places, so that sums of minutes are exact."""
    return Fraction(f"{value:.9f}")


def purchase_order(diagnoses: Mapping[str, str], for_sale: Collection[str], replicate: int) -> tuple[str, ...]:
    """Return the order in which patients are annotated; every budget in patients is a prefix of it, hence nested.

    The next patient is one whose diagnosis is most under-represented so far: fewest patients bought, relative to the
    training patients who have this diagnosis. The draw of ``replicate`` decides between those.

    Args:
        diagnoses: diagnosis of each training patient.
        for_sale: the patients to put in order.
        replicate: number of the draw.

    Examples:
        >>> order = purchase_order({"p1": "A", "p2": "A", "p3": "B", "p4": "B"}, ("p1", "p2", "p3"), replicate=0)
        >>> "p3" in order[:2]
        True
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(replicate, "budget")))
    shuffled = sorted(for_sale)
    rng.shuffle(shuffled)
    waiting: dict[str, deque[tuple[int, str]]] = defaultdict(deque)
    for place, patient in enumerate(shuffled):
        waiting[diagnoses[patient]].append((place, patient))
    sizes = Counter(diagnoses.values())
    taken: Counter[str] = Counter()
    order: list[str] = []
    while waiting:
        behind = min(waiting, key=lambda name: (Fraction(taken[name], sizes[name]), waiting[name][0]))
        order.append(waiting[behind].popleft()[1])
        taken[behind] += 1
        if not waiting[behind]:
            del waiting[behind]
    return tuple(order)


def buy_patients(offer: Offer, count: int, replicate: int) -> Purchase:
    """Return the purchase of the first ``count`` patients of the order, in full."""
    return offer.everything if count == len(offer.n_tiles) else _in_full(offer, offer.order(replicate)[:count])


def buy_minutes(offer: Offer, minutes: Fraction, replicate: int) -> Purchase:
    """Return the purchase of the longest prefix of ``Offer.in_turn`` that costs at most ``minutes``.

    The sequence of units depends only on ``replicate``; the minutes determine where it is cut. A purchase with fewer
    minutes is therefore contained in one with more. A slide is opened, and paid for, with its first tile.
    """
    if offer.minutes(sum(offer.n_tiles.values()), sum(offer.n_slides.values())) <= minutes:
        return offer.everything
    left = dict(offer.n_tiles)
    bought: dict[Unit, str] = {}
    whole: list[str] = []
    opened: set[str] = set()
    n_tiles = 0
    for patient, unit in offer.in_turn(replicate):
        slide = unit[0].slide_id
        if offer.minutes(n_tiles + len(unit), len(opened) + (slide not in opened)) > minutes:
            break
        bought[unit] = patient
        opened.add(slide)
        n_tiles += len(unit)
        left[patient] -= len(unit)
        if not left[patient]:
            whole.append(patient)
    in_part = tuple(tile for unit, patient in bought.items() if left[patient] for tile in unit)
    return Purchase(tuple(whole), in_part, n_tiles, float(offer.minutes(n_tiles, len(opened))))


def least_minutes(offer: Offer, replicate: int) -> Fraction:
    """Return the cost of the first unit: with less, ``buy_minutes`` buys nothing."""
    _, first = next(offer.in_turn(replicate))
    return offer.minutes(len(first), 1)


def _in_full(offer: Offer, patients: tuple[str, ...]) -> Purchase:
    n_tiles, n_slides = (sum(counts[patient] for patient in patients) for counts in (offer.n_tiles, offer.n_slides))
    return Purchase(patients, (), n_tiles, float(offer.minutes(n_tiles, n_slides)))
