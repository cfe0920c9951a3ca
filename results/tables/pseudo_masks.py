"""Quality table of pseudo-masks: each layer of a method at a budget, over its trials."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tissuebench.results.records.pseudo_mask_quality import LayerScore, layer_scores
from tissuebench.results.records.trial_result import TrialResult


@dataclass(frozen=True)
class PseudoRow:
    """Pseudo-mask quality of one layer of one method at one budget, over its trials.

    Attributes:
        minutes: annotator minutes of the budget, mean over its trials.
        miou: mean over the trials, each pooled over its tiles; lowest, highest: over single trials. Trials whose layer
            covers nothing have no mIoU and are left out; None if that holds for all.
        coverage: mean over all trials of the share of annotated pixels that the layer does not ignore.
        n_seeds: seeds per draw, the smallest number if uneven.
    """

    dataset: str
    method: str
    budget: str
    minutes: float | None
    layer: str
    miou: float | None
    lowest: float | None
    highest: float | None
    coverage: float
    n_seeds: int
    n_replicates: int


def pseudo_rows(
    results: Sequence[TrialResult], minutes: Mapping[tuple[str, str, str], float | None]
) -> list[PseudoRow]:
    """Return one row per layer, none for methods without pseudo-masks; ``minutes`` by (dataset, method, budget)."""
    scored: dict[tuple[str, str, str, str], list[tuple[int, LayerScore]]] = defaultdict(list)
    for trial in sorted(results, key=lambda one: (one.dataset, one.method, one.budget, one.replicate, one.seed)):
        for score in layer_scores(trial.pseudo_masks):
            scored[trial.dataset, trial.method, trial.budget, score.label].append((trial.replicate, score))
    return [_row(*key, minutes.get(key[:3]), found) for key, found in scored.items()]


def _row(
    dataset: str,
    method: str,
    budget: str,
    label: str,
    minutes: float | None,
    found: Sequence[tuple[int, LayerScore]],
) -> PseudoRow:
    values = [score.miou for _, score in found if score.miou is not None]
    seeds = Counter(replicate for replicate, _ in found)
    return PseudoRow(
        dataset=dataset,
        method=method,
        budget=budget,
        minutes=minutes,
        layer=label,
        miou=float(np.mean(values)) if values else None,
        lowest=min(values, default=None),
        highest=max(values, default=None),
        coverage=float(np.mean([score.coverage for _, score in found])),
        n_seeds=min(seeds.values()),
        n_replicates=len(seeds),
    )
