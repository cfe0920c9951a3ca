"""Facts about stages that only an instance tells: the streams that it draws from, and the size of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tissuebench.common.hashing import canonical_json
from tissuebench.common.settings import Settings
from tissuebench.datasets.types import Stream
from tissuebench.features.shards import without_weights
from tissuebench.methods.api.stage import Trainable
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.methods.networks.weights_file import without_files
from tissuebench.plans.expand import PlannedData
from tissuebench.training.build import task_of


@dataclass(frozen=True, slots=True)
class StageFacts:
    """Facts about a stage, or the last stage of a trial.

    Attributes:
        streams: the streams of each step.
        weights: bytes of its state.
        trained: bytes of the trained parameters, for each of which an optimiser keeps two moments.
    """

    streams: Mapping[str, Stream]
    weights: int
    trained: int

    @property
    def tiles(self) -> int:
        """Number of tiles of one step, over all streams."""
        return sum(stream.batch_size for stream in self.streams.values())


class BuiltStages:
    """Facts about the stages of a dataset; each kind of stage is built once, with random weights.

    Args:
        data: opened data of the dataset.
    """

    def __init__(self, data: PlannedData) -> None:
        self._data = data
        self._known: dict[str, StageFacts] = {}

    def facts(
        self, kind: type[Trainable[Any]], config: Settings, network: NetworkSettings, training: TrainingSettings
    ) -> StageFacts:
        """Return the facts about a stage of this class with these settings."""
        network, config = without_weights(network), without_files(config)
        settings = (each.model_dump(mode="json") for each in (config, network, training))
        key = canonical_json([kind.__module__, kind.__qualname__, *settings])
        if key not in self._known:
            module = kind(task_of(self._data, network, training), config)
            self._known[key] = StageFacts(
                streams=dict(module.streams()),
                weights=sum(each.numel() * each.element_size() for each in module.state_dict().values()),
                trained=sum(each.numel() * each.element_size() for each in module.parameters() if each.requires_grad),
            )
        return self._known[key]
