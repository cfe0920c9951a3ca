"""Made-up cohorts and the order in which they are bought; run as a program, prints an order of patients or of tiles."""

from __future__ import annotations

import sys
from fractions import Fraction

from hypothesis import strategies as st

from tissuebench.datasets.labels.purchase import Offer, buy_minutes, decimal, purchase_order
from tissuebench.datasets.types import Tile

replicates = st.integers(0, 2**32)


def one_order():
    return purchase_order({f"P{n:02}": "ABC"[n % 3] for n in range(40)}, [f"P{n:02}" for n in range(0, 40, 2)], 3)


def units_of(patient, count, tagged=False):
    """The tiles of a patient as they are sold: one by one, or two slides of them."""
    tiles = [Tile(f"{patient}-{n % 2}", 0, 32 * n) for n in range(count)]
    if not tagged:
        return [(tile,) for tile in tiles]
    slides = [tuple(tile for tile in tiles if tile.slide_id == f"{patient}-{side}") for side in (0, 1)]
    return [slide for slide in slides if slide]


def made_up(cohort, price, tagged=False, opening=0.0):
    """Labels of a cohort of (diagnosis, number of tiles); a patient without tiles has no labels."""
    sizes = {patient: n for patient, (_, n) in cohort.items() if n}
    return Offer(
        minutes_per_tile=price,
        opening_minutes_per_slide=opening,
        n_tiles=sizes,
        n_slides={patient: min(n, 2) for patient, n in sizes.items()},
        diagnoses={patient: diagnosis for patient, (diagnosis, _) in cohort.items()},
        units=lambda patient: units_of(patient, sizes[patient], tagged),
    )


def tiles_of(purchase, cohort):
    """All tiles of a purchase, those of patients bought in full included."""
    whole = {tile for patient in purchase.patients for (tile,) in units_of(patient, cohort[patient][1])}
    assert not whole & set(purchase.tiles)
    return whole | set(purchase.tiles)


def bought(offer, minutes, replicate):
    return buy_minutes(offer, minutes if isinstance(minutes, Fraction) else decimal(minutes), replicate)


def some_tiles():
    purchase = bought(made_up({f"p{n}": ("AB"[n % 2], 2 + n) for n in range(9)}, 1.0), 33, 5)
    return [*purchase.patients, *(f"{tile.slide_id}/{tile.x}" for tile in purchase.tiles)]


if __name__ == "__main__":  # what another process draws
    print(*{"patients": one_order, "tiles": some_tiles}[sys.argv[1]]())
