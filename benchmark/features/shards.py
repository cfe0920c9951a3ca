"""Shards of features: the part of the features of an encoder that one task computes, and all that it depends on."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import torch

from tissuebench.common.hashing import Json
from tissuebench.methods.networks import Segmenter, build_segmenter
from tissuebench.methods.networks.encoder_weights import weights_sha256
from tissuebench.methods.networks.settings import NetworkSettings, Weights
from tissuebench.plans.trial import short_hash

VERSION = 5
MAX_SHARDS = 64
TILES, WINDOWS = "tiles", "windows"
"""Kinds of shards, by the key ``of`` of their identity."""

Shapes = tuple[tuple[int, int, int], ...]
"""Channels, height and width of each map of an image, finest first."""


@dataclass(frozen=True, slots=True)
class FeatureShard:
    """A shard of features; its number and content do not depend on methods, budgets and seeds.

    Attributes:
        identity: everything that the features depend on, so that those computed under other settings are never read.
        slides: slides with regions in the shard.
        images: images to encode; for windows, at most.
        n_bytes: bytes of the features; for windows, at most.
        number, count: number of the shard among all that were planned with it, from 1, and how many these are.
    """

    identity: dict[str, Json]
    slides: Collection[str]
    images: int
    n_bytes: int
    number: int
    count: int

    @property
    def key(self) -> str:
        """Hash of the identity; also the name of the task's folder."""
        return short_hash(self.identity)

    @property
    def is_of_windows(self) -> bool:
        """Whether these are features of windows, rather than of training tiles."""
        return self.identity["of"] == WINDOWS


class FrozenEncoder:
    """An encoder as shards are planned for it; several plans of shards may share one.

    Args:
        network: network settings.
        n_classes: number of classes.

    Attributes:
        shapes: shapes of its maps.
        identity: all that the maps of an image depend on, apart from the image.

    Raises:
        ConfigError: unknown encoder, or its weights are not available.
    """

    def __init__(self, network: NetworkSettings, n_classes: int) -> None:
        self.network, self.shapes = network, MapShapes(network, n_classes)
        self.identity: dict[str, Json] = {
            "version": VERSION,
            "encoder": network.encoder,
            "weights": weights_sha256(network),
            "decoder": network.decoder,  # it determines which maps it reads
            "depths": network.depths,
        }


class MapShapes:
    """Shapes of the maps of images of any size, without computing them.

    Args:
        network: network settings; nothing is downloaded.
        n_classes: number of classes.

    Attributes:
        multiple: sides of images are padded to multiples of it.
    """

    def __init__(self, network: NetworkSettings, n_classes: int) -> None:
        self._network = _on_meta(without_weights(network).model_copy(update={"feature_cache": None}), n_classes)
        self.multiple = self._network.multiple
        self._known: dict[tuple[int, int], Shapes] = {}

    def of(self, height: int, width: int) -> Shapes:
        """Return the shapes of the maps of an image of this size in pixels."""
        size = (height, width)
        if size not in self._known:
            with torch.inference_mode():
                maps = self._network.encode(torch.zeros((1, 3, *size), device="meta"))
            self._known[size] = tuple((each.shape[1], each.shape[2], each.shape[3]) for each in maps)
        return self._known[size]


@lru_cache(maxsize=8)
def _on_meta(network: NetworkSettings, n_classes: int) -> Segmenter:
    with torch.device("meta"):
        return build_segmenter(network, n_classes).eval()


def n_values(shapes: Shapes) -> int:
    """Return the number of values of all maps of an image."""
    return sum(math.prod(shape) for shape in shapes)


def without_weights(network: NetworkSettings) -> NetworkSettings:
    """Return the same settings with random weights: as fast and as large, but nothing is loaded.

    This applies to a frozen encoder as well.
    """
    return network.model_copy(update={"weights": Weights.NONE})
