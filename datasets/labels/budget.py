"""Label budgets: the labels that were bought, their cost, and the bought patients reserved for checkpoint selection."""

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
    """Labels that were bought, their cost, and where they came from.

    Labels that select a checkpoint are part of the budget and hence paid for; ``selection_patients`` returns their
    patients.

    Attributes:
        spec: as typed in a plan, see ``budget_spec``.
        replicate: number of the draw; 0 if ``everything`` was bought.
        split_sha256: split whose training part was sold.
        spending: how minutes were divided between kinds of labels; empty for a budget in patients.
        patients: patients whose masks were bought in full, in the order in which the last of their tiles was bought.
        tiles: number of tiles whose masks were bought.
        mask_minutes: cost of these masks.
        mask_tiles: those of the tiles that belong to patients bought in part.
        tags: the tags that were bought in addition to the masks.
        diagnoses: the diagnoses that were paid from a budget in minutes. A budget in patients leaves them to the
            trial, because whether a method uses diagnoses must not change which masks it gets.
        everything: whether all labels for sale were bought: nothing was drawn, and every draw is this one.

    Examples:
        >>> from tissuebench.datasets.labels.budget import LabelBudget
        >>> budget = LabelBudget("masks:2p", 0, split_sha256="", patients=("p3", "p1"), tiles=12, mask_minutes=24.0)
        >>> budget.purchases[Supervision.MASKS].n_tiles, budget.minutes
        (12, 24.0)
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
    everything: bool = False

    @classmethod
    def of_purchases(
        cls,
        spec: str,
        replicate: int,
        split_sha256: str,
        spending: str,
        purchases: Mapping[Supervision, Purchase],
        everything: bool,
    ) -> LabelBudget:
        """Return the budget that consists of the given purchases; the inverse of ``purchases``."""
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
            everything=everything,
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Json]) -> LabelBudget:
        """Return the budget that ``document`` describes.

        Raises:
            DataError: it is not a budget of this version.
        """
        try:
            bought = cast("Mapping[str, Json]", document["purchases"])
            return cls.of_purchases(
                cast("str", document["spec"]),
                cast("int", document["replicate"]),
                cast("str", document["split_sha256"]),
                cast("str", document["spending"]),
                {Supervision(kind): Purchase.of_document(purchase) for kind, purchase in bought.items()},
                bool(document.get("everything", False)),  # trials of earlier releases can still predict
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError("is not a budget of this version") from None

    @property
    def purchases(self) -> dict[Supervision, Purchase]:
        """Purchase of each kind of label; kinds without a purchase are missing."""
        masks = Purchase(self.patients, self.mask_tiles, self.tiles, self.mask_minutes)
        bought = {Supervision.MASKS: masks, Supervision.TAGS: self.tags, Supervision.DIAGNOSIS: self.diagnoses}
        return {kind: purchase for kind, purchase in bought.items() if purchase != NOTHING}

    @property
    def minutes(self) -> float:
        """Total cost in minutes."""
        return self.mask_minutes + self.tags.minutes + self.diagnoses.minutes

    @property
    def sha256(self) -> str:
        """Hash of the content, as stored in the file and in every result."""
        return content_hash(self.document())

    def document(self) -> dict[str, Json]:
        """Return the budget as stored in a file."""
        return {
            "spec": self.spec,
            "replicate": self.replicate,
            "split_sha256": self.split_sha256,
            "spending": self.spending,
            "everything": self.everything,
            "purchases": {kind.value: purchase.document() for kind, purchase in self.purchases.items()},
        }


def selection_patients(budget: LabelBudget, share: float, kind: Supervision = Supervision.MASKS) -> tuple[str, ...]:
    """Return the bought patients that select a checkpoint and are not trained on (``held_out`` of the label view).

    These are every k-th in the order of purchase, k = round(1 / share), so that a larger budget also holds out the
    patients that a smaller one does. Their labels are part of the budget, hence paid for. With fewer than k patients
    nobody is held out.

    Raises:
        ConfigError: ``share`` is not between 0 (nobody) and .5 (every second one).
    """
    if not 0 <= share <= 0.5:
        raise ConfigError(f"share of patients that choose a checkpoint is {share:g}; it goes from 0 to 0.5")
    every = round(1 / share) if share else 0
    bought = budget.purchases.get(kind, NOTHING).patients
    return bought[every - 1 :: every] if every else ()
