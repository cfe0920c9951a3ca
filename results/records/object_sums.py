"""Sums over the objects of each slide, as stored with a result whose plan names classes in ``evaluation.objects``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tissuebench.common.hashing import Json
from tissuebench.results.records.object_metrics import SUMS


@dataclass(frozen=True, eq=False)
class ObjectSums:
    """Sums over the objects (glands, nuclei) of each slide.

    Attributes:
        classes: Q classes whose connected regions are objects, in the order of the result's classes.
        unit: unit of the distances: ``um``, or ``px`` of the store if the dataset does not publish its mpp.
        sums: (S, Q, ``len(SUMS)``) float64, see ``results.records.object_metrics``.
    """

    classes: tuple[str, ...]
    unit: str
    sums: npt.NDArray[np.float64]

    def complaint(self, n_slides: int, classes: tuple[str, ...]) -> str:
        """Return what contradicts a result of these slides and classes, empty if nothing does."""
        expected = (n_slides, len(self.classes), len(SUMS))
        if not self.classes or [name for name in classes if name in self.classes] != list(self.classes):
            return f"has objects of classes {list(self.classes)}: expected some of {list(classes)}, in their order"
        if self.unit not in ("um", "px"):
            return f"has distances in {self.unit!r}: expected um or px"
        if self.sums.shape != expected or self.sums.dtype != np.float64:
            return f"has sums of objects of shape {self.sums.shape}, {self.sums.dtype}: expected {expected}, float64"
        if not (np.isfinite(self.sums).all() and (self.sums >= 0).all()):
            return "has sums of objects that are negative or not finite"
        return ""

    def header(self) -> dict[str, Json]:
        """Return what stands in the metadata of a result; the sums are a column."""
        return {"classes": list(self.classes), "unit": self.unit}
