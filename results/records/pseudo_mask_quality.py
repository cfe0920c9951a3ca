"""Quality of the pseudo-masks of training tiles against withheld masks: a diagnostic, never used in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tissuebench.common.hashing import Json
from tissuebench.errors import DataError
from tissuebench.results.metrics import miou

DIAGNOSTIC = "diagnostic, nothing is trained on it"
MIOU, COVERAGE = "pseudo_miou/", "pseudo_coverage/"
"""Prefixes of metric names, followed by the layer: scores of training tiles, not of the test part."""


@dataclass(frozen=True, eq=False)
class PseudoQuality:
    """Quality of the pseudo-masks of one stage, layer by layer. A diagnostic that no training ever sees.

    Attributes:
        layers: L layer names.
        counts: (L, K, K) int64, ``counts[layer, truth, pseudo]``, in pixels that the truth annotates and the layer does
            not ignore. Tiles at a slide's edge overlap their neighbours; a pixel counts in each of its tiles.
        annotated: number of pixels of the compared tiles that the truth annotates, at least one.
        n_tiles: number of compared tiles: annotated by the stage, and by the truth in at least one pixel.

    Raises:
        DataError: a field contradicts another or is out of range.
    """

    layers: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    annotated: int
    n_tiles: int

    def __post_init__(self) -> None:
        n, shape = len(self.layers), self.counts.shape
        if not n or len(set(self.layers)) != n or not all(self.layers):
            raise DataError(f"layers of pseudo-masks need names that differ: {self.layers}")
        if self.counts.dtype != np.int64 or len(shape) != 3 or shape[0] != n or shape[1] != shape[2]:
            raise DataError(f"pseudo-masks of {n} layers have {self.counts.dtype} counts of shape {shape}")
        covered = self.counts.sum(axis=(1, 2))
        if self.n_tiles < 1 or self.counts.size == 0 or self.counts.min() < 0 or covered.max() > self.annotated:
            raise DataError("counts of pseudo-masks contradict the number of annotated pixels or tiles")
        if self.annotated < 1:
            raise DataError("pseudo-masks were compared with masks that annotate nothing")

    @property
    def miou(self) -> npt.NDArray[np.float64]:
        """Mean IoU of each layer, pooled over the tiles, (L,); nan if the layer covers no annotated pixel.

        The mean is over the classes of the truth that the layer does not ignore everywhere; see ``coverage``.
        """
        return miou(self.counts)

    @property
    def coverage(self) -> npt.NDArray[np.float64]:
        """Share of the annotated pixels that each layer does not ignore, (L,) in 0..1."""
        return np.asarray(self.counts.sum(axis=(1, 2)) / self.annotated, dtype=np.float64)

    def to_json(self) -> dict[str, Json]:
        """Return all fields as a JSON object."""
        counts: Json = self.counts.tolist()
        return {"layers": list(self.layers), "counts": counts, "annotated": self.annotated, "n_tiles": self.n_tiles}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PseudoQuality:
        """Read the output of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError, DataError: the document is anything else.
        """
        counts = np.array(document["counts"])
        return cls(
            layers=tuple(document["layers"]),
            counts=counts.astype(np.int64, casting="safe"),
            annotated=int(document["annotated"]),
            n_tiles=int(document["n_tiles"]),
        )


@dataclass(frozen=True, slots=True)
class LayerScore:
    """Scores of one layer of one trial. ``label`` is its name, prefixed by the stage if several stages annotate."""

    stage: str
    layer: str
    label: str
    miou: float | None
    coverage: float


def layer_scores(by_stage: Mapping[str, PseudoQuality]) -> list[LayerScore]:
    """Score every layer of a trial's stages, by stage, then in the stage's order; ``miou`` is None if undefined."""
    return [
        LayerScore(
            stage=stage,
            layer=layer,
            label=layer if len(by_stage) == 1 else f"{stage}/{layer}",
            miou=None if np.isnan(value) else float(value),
            coverage=float(share),
        )
        for stage, quality in sorted(by_stage.items())
        for layer, value, share in zip(quality.layers, quality.miou, quality.coverage, strict=True)
    ]
