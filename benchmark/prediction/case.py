"""Diagnosis of a predicted slide by its areas, as cases are called by the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tissuebench.common.hashing import Json
from tissuebench.datasets.types import ClassMap
from tissuebench.results.case_metrics import area_shares


@dataclass(frozen=True, slots=True)
class CaseCall:
    """Diagnosis that the areas of a slide speak for.

    Attributes:
        called: the diagnosis with the largest area; several if they are tied, all of them if none has any area.
        shares: share of each diagnosis in the area of all, as it ranks cases for the AUC.
    """

    called: tuple[str, ...]
    shares: Mapping[str, float]

    @property
    def sentence(self) -> str:
        """The diagnosis, or ``tie: A; B``."""
        return self.called[0] if len(self.called) == 1 else f"tie: {'; '.join(self.called)}"

    def document(self) -> dict[str, Json]:
        """Return the call as stored with a prediction."""
        return {"call": self.sentence, "called": list(self.called), "shares": dict(self.shares)}


def call_case(pixels: NDArray[np.int64], class_map: ClassMap) -> CaseCall | None:
    """Call a slide by the area over its tissue of the classes that each diagnosis allows.

    Args:
        pixels: (K,) pixels of tissue that are predicted as each class.
        class_map: the classes, and which of them each diagnosis allows.

    Returns:
        None if the dataset has fewer than two diagnoses.
    """
    names = list(class_map.diagnoses)
    if len(names) < 2:
        return None
    allows = np.array([[name in class_map.diagnoses[one] for name in class_map.names] for one in names], np.int64)
    areas = (allows @ pixels).astype(np.float64)
    called = tuple(name for name, area in zip(names, areas, strict=True) if area == areas.max())
    return CaseCall(called, dict(zip(names, area_shares(areas).tolist(), strict=True)))
