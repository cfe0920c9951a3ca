"""Tiles of an epoch, from which the steps of a training follow that is given in epochs."""

from __future__ import annotations

from tissuebench.common.settings import Settings
from tissuebench.datasets.labels.budget import LabelBudget, selection_patients
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.sampling import n_tiles
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Supervision
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.training_settings import TrainingSettings


def tiles_of_epochs(
    store: TileStore, split: Split, budget: LabelBudget, method: str, config: Settings, shared: TrainingSettings
) -> dict[Supervision, int]:
    """Return the number of tiles with each kind of label that a stage of the method counts as an epoch.

    Patients held out for checkpoint selection do not count.

    Args:
        store: the tiles.
        split: its training part counts.
        budget: the labels.
        method: name of the method.
        config: its settings.
        shared: training settings of the plan.

    Returns:
        Counts by kind of label; empty if no stage is given in epochs.

    Raises:
        ConfigError: unknown method, contradicting settings, or a kind of label without tiles.
    """
    kind = find_method(method)
    last = kind.training_of(config, shared)
    counted = {stage.epoch_tiles: stage.consumes for stage in kind.stages(config, shared) if stage.training.epochs}
    if last.epochs:
        counted[kind.epoch_tiles(config)] = kind.consumes
    held_out = selection_patients(budget, last.selection_share)
    return {
        labels: n_tiles(labels, store, LabelView.for_training(store, split, budget, consumes, held_out))
        for labels, consumes in counted.items()
    }
