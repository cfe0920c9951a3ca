"""LabelBudget: which labels were bought, what they cost, and who of the bought patients may choose a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from tissuebench.common.hashing import Json, content_hash
from tissuebench.datasets.labels.purchase import NOTHING, Purchase
from tissuebench.datasets.types import Supervision, Tile
from tissuebench.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class LabelBudget:
    """What was bought, what it cost, and where it came from.

    Labels that choose a checkpoint are inside the budget too and hence charged: ``selection_patients`` says whose.

    Attributes:
        spec: as typed in a plan, see ``budget_specs``.
        replicate: number of the draw.
        split_sha256: split whose training part was sold.
        spending: how minutes were shared out; empty for a budget in patients.
        patients: whose masks were bought in full, in the order of purchase.
        tiles: tiles whose masks were bought.
        mask_minutes: what these cost.
        mask_tiles: those of them that belong to the patient at whom the minutes ended.
        tags: the tags that were bought beside the masks.
        diagnoses: the diagnoses that were paid from a budget in minutes. A budget in patients leaves them to the
            trial, because whether a method looks at diagnoses must not change which masks it gets.
    """

    spec: str
    replicate: int
    split_sha256: str
    spending: str = ""
    patients: tuple[str, ...] = ()
    tiles: int = 0
    mask_minutes: float = 0.0
    mask_tiles: tuple[Tile, ...] = ()
    tags: Purchase = NOTHING
    diagnoses: Purchase = NOTHING

    @classmethod
    def of_purchases(
        cls, spec: str, replicate: int, split_sha256: str, spending: str, purchases: Mapping[Supervision, Purchase]
    ) -> LabelBudget:
        """The budget that consists of these purchases, as ``purchases`` gives them."""
        masks = purchases.get(Supervision.MASKS, NOTHING)
        return cls(
            spec=spec,
            replicate=replicate,
            split_sha256=split_sha256,
            spending=spending,
            patients=masks.patients,
            tiles=masks.n_tiles,
            mask_minutes=masks.minutes,
            mask_tiles=masks.tiles,
            tags=purchases.get(Supervision.TAGS, NOTHING),
            diagnoses=purchases.get(Supervision.DIAGNOSIS, NOTHING),
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Json]) -> LabelBudget:
        """The budget that ``document`` describes.

        Raises:
            DataError: it is not one of this version.
        """
        try:
            bought = cast("Mapping[str, Json]", document["purchases"])
            return cls.of_purchases(
                cast("str", document["spec"]),
                cast("int", document["replicate"]),
                cast("str", document["split_sha256"]),
                cast("str", document["spending"]),
                {Supervision(kind): Purchase.of_document(purchase) for kind, purchase in bought.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError("is not a budget of this version") from None

    @property
    def purchases(self) -> dict[Supervision, Purchase]:
        """What was bought of each kind; nothing was bought of a kind that is missing."""
        masks = Purchase(self.patients, self.mask_tiles, self.tiles, self.mask_minutes)
        bought = {Supervision.MASKS: masks, Supervision.TAGS: self.tags, Supervision.DIAGNOSIS: self.diagnoses}
        return {kind: purchase for kind, purchase in bought.items() if purchase != NOTHING}

    @property
    def minutes(self) -> float:
        """What everything together cost."""
        return self.mask_minutes + self.tags.minutes + self.diagnoses.minutes

    @property
    def sha256(self) -> str:
        """Hash of the content, as it stands in the file and in every result."""
        return content_hash(self.document())

    def document(self) -> dict[str, Json]:
        """As it stands in the file."""
        return {
            "spec": self.spec,
            "replicate": self.replicate,
            "split_sha256": self.split_sha256,
            "spending": self.spending,
            "purchases": {kind.value: purchase.document() for kind, purchase in self.purchases.items()},
        }


def selection_patients(budget: LabelBudget, share: float, kind: Supervision = Supervision.MASKS) -> tuple[str, ...]:
    """The bought patients who choose a checkpoint and are not trained on (``held_out`` of the label view).

    Every k-th in the order of purchase, k = round(1 / share), so that what a smaller budget holds out a larger one
    holds out too. Their labels are inside the budget, hence paid for. Fewer than k patients hold out nobody.

    Raises:
        ConfigError: ``share`` is not from 0 (nobody) to .5 (every other one).
    """
    if not 0 <= share <= 0.5:
        raise ConfigError(f"share of patients that choose a checkpoint is {share:g}; it goes from 0 to 0.5")
    every = round(1 / share) if share else 0
    bought = budget.purchases.get(kind, NOTHING).patients
    return bought[every - 1 :: every] if every else ()
