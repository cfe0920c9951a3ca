"""Builders of what a fit trains: a method with initial weights, and a stage's batches with the labels it may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.datasets.types import Stream, StreamName, Supervision
from tissuebench.errors import ConfigError
from tissuebench.evaluation.evaluate import SlideScorer
from tissuebench.features.tiles import TileFeatures
from tissuebench.methods.api.method import Method
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Task, Trainable
from tissuebench.methods.api.training_settings import Sampling, TrainingSettings
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial
from tissuebench.runtime.machine import Machine
from tissuebench.runtime.processes import World
from tissuebench.training.checkpoint_selection import KeepBest, held_out_patients
from tissuebench.training.fit import seed_everything
from tissuebench.training.pseudo_mask_store import PseudoMasks
from tissuebench.training.validation import SELECTION, WATCHED, Validation


def task_of(
    data: PlannedData, network: NetworkSettings, training: TrainingSettings, crop_px: int | None = None
) -> Task:
    """Return the task description that a stage receives; ``crop_px`` is the edge of the crops that it sees, if any."""
    info = data.store.info
    return Task(data.store.class_map, network, training, crop_px or info.tile_px, info.white)


def build_method(trial: Trial, data: PlannedData) -> Method[Any]:
    """Build the trial's method with its initial weights, which depend on the seed alone."""
    seed_everything(derive_seed(trial.seed, "init"))
    return find_method(trial.method)(
        task_of(data, trial.network, trial.training, trial.augmentation.crop_px), trial.config
    )


def build_datamodule(
    trial: Trial,
    method: Method[Any],
    data: PlannedData,
    features: TileFeatures | None,
    machine: Machine,
    pseudo: Mapping[str, PseudoMasks] | None = None,
) -> TileDataModule:
    """Build the batches of a trial's last stage, limited to the labels that its budget buys.

    Raises:
        ConfigError: a stream needs labels that the method does not declare to consume, or its batch type does not match
            its name.
    """
    held_out = held_out_patients(trial.budget, trial.training.selection_share)
    view = LabelView.for_training(data.store, data.split, trial.budget, method.consumes, held_out)
    return stage_datamodule(
        f"method {trial.method!r}",
        method,
        method.consumes,
        view,
        trial.seed,
        trial.augmentation,
        data,
        features,
        machine,
        pseudo,
    )


def stage_datamodule(
    where: str,
    stage: Trainable[Any],
    consumes: frozenset[Supervision],
    view: LabelView,
    seed: int,
    augmentation: AugmentSettings,
    data: PlannedData,
    features: TileFeatures | None,
    machine: Machine,
    pseudo: Mapping[str, PseudoMasks] | None,
) -> TileDataModule:
    """Build the batches of any stage.

    Args:
        where: name of the stage in error messages.
        stage: the stage whose streams are loaded.
        consumes: kinds of labels that it declares to consume.
        view: access to the labels of these kinds.
        seed: seed of the stage.
        augmentation: strength of the augmentation.
        data: store and split.
        features: cached features of a frozen encoder.
        machine: settings of the loader.
        pseudo: pseudo-masks of earlier stages, by name.

    Raises:
        ConfigError: a stream needs labels that the stage does not declare to consume, or its batch type does not match
            its name.
    """
    streams = _sampled(stage.streams(), stage.task.training.sampling)
    for name, stream in streams.items():
        if stream.supervision not in consumes and stream.supervision != Supervision.NONE:
            raise ConfigError(f"{where}: stream {name!r} wants {stream.supervision}, not in consumes")
        if isinstance(name, StreamName) and not issubclass(stream.batch_type, name.batch_type):
            raise ConfigError(
                f"{where}: stream {name!r} gives a {stream.batch_type.__name__}, not the "
                f"{name.batch_type.__name__} that its name promises"
            )
    return TileDataModule(
        data.store,
        view,
        streams,
        seed,
        stage.task.training.steps,
        augmentation,
        features,
        machine.loader,
        pseudo,
    )


def _sampled(streams: Mapping[str, Stream], sampling: Sampling) -> dict[str, Stream]:
    """Return the streams with the order of tiles that the training settings name; balanced ones are up to the stage."""
    if sampling is Sampling.BALANCED:
        return dict(streams)
    shuffled = sampling is Sampling.SHUFFLED
    return {name: replace(stream, balanced=False, shuffled=shuffled) for name, stream in streams.items()}


def validation_of(
    trial: Trial, data: PlannedData, machine: Machine, world: World
) -> tuple[Validation | None, KeepBest | None]:
    """Return what scores held-out patients while the trial trains, and what selects its checkpoint by them.

    Bought patients select it; the validation part may be watched and selects nothing.
    """
    views = {}
    if patients := held_out_patients(trial.budget, trial.training.selection_share):
        views[SELECTION] = LabelView.for_selection(data.store, data.split, trial.budget, patients)
    if trial.evaluation.watch is not None:
        views[WATCHED] = LabelView.for_evaluation(data.store, data.split, trial.evaluation.watch)
    if not views:
        return None, None
    scorers = {
        name: SlideScorer(data.store, view, trial.evaluation, machine.device, machine.precision, world, masks_only=True)
        for name, view in views.items()
    }
    every = trial.training.selection_every if SELECTION in views else trial.evaluation.watch_every
    validation = Validation(scorers, every)
    keep_best = KeepBest(lambda: validation.scores[f"{SELECTION}/miou"]) if SELECTION in views else None
    return validation, keep_best
