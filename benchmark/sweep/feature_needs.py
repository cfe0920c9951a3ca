"""Shards of features that trials and their stages need: those of tiles that they can draw, and of windows to score."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tissuebench.common.settings import Settings
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import stream_augmentation
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.errors import ConfigError
from tissuebench.evaluation.window_features import plan_windows
from tissuebench.features.shards import FeatureShard, FrozenEncoder
from tissuebench.features.tiles import needed_shards, plan_tiles
from tissuebench.methods.api.method import Method
from tissuebench.methods.api.stage import Stage
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial, short_hash
from tissuebench.sweep.stage_facts import BuiltStages


class FeatureNeeds:
    """Shards that the tasks of a dataset need.

    Args:
        data: store and split.
    """

    def __init__(self, data: PlannedData) -> None:
        self._data, self._built = data, BuiltStages(data)
        self._encoders: dict[str, FrozenEncoder] = {}
        self._planned: dict[str, list[FeatureShard]] = {}

    def tiles_of(self, trial: Trial, stage: Stage, held_out: Collection[str]) -> list[FeatureShard]:
        """Return the shards of the tiles that a stage can draw; none if it sees images.

        Args:
            trial: a trial that needs the stage.
            stage: the stage, which may be the trial's last one.
            held_out: patients whose bought labels it may not use.

        Raises:
            ConfigError: a stream has an augmentation of its own, which features cannot have.
        """
        if not trial.network.caches_features or stage.module.wants_images(stage.config):
            return []
        if stage.augmentation:
            raise ConfigError(
                f"method {trial.method!r}: stage {stage.name!r} has its own augmentation, and cached features are "
                "augmented as the plan says: set network.feature_cache to 'off'"
            )
        view = LabelView.for_training(self._data.store, self._data.split, trial.budget, stage.consumes, held_out)
        streams = self._built.facts(stage.module, stage.config, trial.network, stage.training).streams
        for name, stream in streams.items():
            stream_augmentation(name, stream, trial.augmentation, caches_features=True)
        return needed_shards(self._all_tiles(trial), drawn_slides(streams, view))

    def windows_of(self, trial: Trial, kind: type[Method[Any]]) -> list[FeatureShard]:
        """Return the shards of the windows that a trial of this method predicts; none if it is scored from images."""
        if not trial.network.caches_features or not kind.can_predict_features(trial.config):
            return []
        key = _key(trial.network, trial.evaluation)
        if key not in self._planned:
            encoder = self._encoder(trial.network)
            self._planned[key] = plan_windows(encoder, trial.evaluation, self._data.store, self._data.split)
        return self._planned[key]

    def _all_tiles(self, trial: Trial) -> list[FeatureShard]:
        key = _key(trial.network, trial.augmentation)
        if key not in self._planned:
            encoder = self._encoder(trial.network)
            self._planned[key] = plan_tiles(encoder, trial.augmentation, self._data.store, self._data.split)
        return self._planned[key]

    def _encoder(self, network: NetworkSettings) -> FrozenEncoder:
        key = _key(network)
        if key not in self._encoders:
            self._encoders[key] = FrozenEncoder(network, len(self._data.store.class_map))
        return self._encoders[key]


def drawn_slides(streams: Mapping[str, Stream], view: LabelView) -> frozenset[str]:
    """Return the slides with tiles that a stream can draw from the training part."""
    kinds = {stream.supervision for stream in streams.values()}
    if kinds & {Supervision.NONE, Supervision.DIAGNOSIS}:
        return frozenset(slide.slide_id for slide in view.slides)
    slides: set[str] = set()
    if Supervision.MASKS in kinds:
        slides |= {slide.slide_id for slide in view.mask_slides}
    if Supervision.TAGS in kinds:
        slides |= {tile.slide_id for tile in view.tag_tiles()}
    return frozenset(slides)


def _key(*settings: Settings) -> str:
    return short_hash([each.stored() for each in settings])
