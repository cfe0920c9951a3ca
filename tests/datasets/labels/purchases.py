"""Made-up cohorts and the order in which they are bought; run as a program, prints an order of patients or of tiles."""

from __future__ import annotations

import sys

from hypothesis import strategies as st

from tissuebench.datasets.labels.purchase import Offer, buy_minutes, purchase_order
from tissuebench.datasets.types import Tile

replicates = st.integers(0, 2**32)


def order_of(cohort, replicate=0):
    return purchase_order({p: c[0] for p, c in cohort.items()}, {p: c[1] for p, c in cohort.items()}, replicate)


def one_order():
    return order_of({f"P{n:02}": ("ABC"[n % 3], frozenset({n % 2, n % 5})) for n in range(40)}, 3)


def whole_slides(patient, count, tagged=False):
    """The tiles of a patient as they are sold: one by one, or two slides of them."""
    tiles = [Tile(f"{patient}-{n % 2}", 0, 32 * n) for n in range(count)]
    if not tagged:
        return [(tile,) for tile in tiles]
    slides = [tuple(tile for tile in tiles if tile.slide_id == f"{patient}-{side}") for side in (0, 1)]
    return [slide for slide in slides if slide]


def made_up(cohort, price, tagged=False):
    return Offer(
        minutes_per_tile=price,
        n_tiles={patient: n for patient, (_, _, n) in cohort.items()},
        strata={patient: diagnosis for patient, (diagnosis, _, _) in cohort.items()},
        classes={patient: classes for patient, (_, classes, _) in cohort.items()},
        units=lambda patient: whole_slides(patient, cohort[patient][2], tagged),
    )


def some_tiles():
    bought = buy_minutes(made_up({f"p{n}": ("AB"[n % 2], frozenset({n % 3}), 9) for n in range(9)}, 1.0), 33, 5)
    return [*bought.patients, *(f"{tile.slide_id}/{tile.x}" for tile in bought.tiles)]


if __name__ == "__main__":  # what another process draws
    print(*{"patients": one_order, "tiles": some_tiles}[sys.argv[1]]())
