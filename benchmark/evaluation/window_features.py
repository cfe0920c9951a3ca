"""Features of the windows that scoring predicts; shared by every method, budget and seed.

They are float32 and computed in the batches in which windows are predicted: a score must not depend on whether it came
from features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.common.hashing import Json
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import SlideInfo, TileStore
from tissuebench.evaluation.counted import CountedArea
from tissuebench.evaluation.stitching import ImageWindows, Place, Stitching, batches
from tissuebench.features.records import Batch, Block, Encoding, Maps, Records, flattened, open_shard
from tissuebench.features.shards import (
    MAX_SHARDS,
    WINDOWS,
    FeatureShard,
    FrozenEncoder,
    MapShapes,
    n_values,
)
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.networks.encoded import Encoded
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.plans.schema import EvaluationSettings

_DTYPE = "float32"
_MIN_SHARD_PX = 1 << 23


def plan_windows(
    encoder: FrozenEncoder, evaluation: EvaluationSettings, store: TileStore, split: Split
) -> list[FeatureShard]:
    """Return the shards that hold the features of the windows of a part, each of a group of slides of similar area.

    Masks are not read: a shard's images and bytes are those that all its windows would have.
    """
    how = Stitching.of(evaluation, store.info.tile_px, torch.device("cpu"), "32-true")
    common: dict[str, Json] = {
        **encoder.identity,
        "of": WINDOWS,
        "store": store.content_hash,
        "split": split.sha256,
        "part": evaluation.part,
        "window_px": how.window_px,
        "overlap_px": how.overlap_px,
        "tta": how.tta,
    }
    patients = set(split.patients(evaluation.part))
    slides = [slide for slide in store.slides.values() if slide.patient_id in patients]
    groups = list(_groups(slides, [how.work(slide.height, slide.width) for slide in slides]))
    shards = []
    for number, group in enumerate(groups, start=1):
        ids = [slide.slide_id for slide in group]
        images = sum(_n_images(how, slide) for slide in group)
        shards.append(
            FeatureShard(
                {**common, "slides": ids},
                slides=ids,
                images=images,
                n_bytes=window_bytes(how, group, encoder.shapes),
                number=number,
                count=len(groups),
            )
        )
    return shards


def values_per_px(shapes: MapShapes, edge: int) -> float:
    """Return the number of values of the maps per pixel of an image of this edge length; padding counts as values."""
    return n_values(shapes.of(edge, edge)) / edge**2


def window_bytes(how: Stitching, slides: Sequence[SlideInfo], shapes: MapShapes) -> int:
    """Return at most how many bytes the features of all windows of slides have."""
    per_px = values_per_px(shapes, how.window_px)
    total = 0.0
    for slide in slides:
        size_y, size_x = (side + -side % shapes.multiple for side in how.size(slide.height, slide.width))
        total += _n_images(how, slide) * (size_y * size_x * per_px * np.dtype(_DTYPE).itemsize + 1)
    return round(total)


def _n_images(how: Stitching, slide: SlideInfo) -> int:
    return len(how.starts(slide.height)) * len(how.starts(slide.width)) * len(how.views)


def _groups(slides: Sequence[SlideInfo], work: Sequence[int]) -> Iterator[list[SlideInfo]]:
    """Yield consecutive slides in at most ``MAX_SHARDS`` groups of similar work."""
    total = sum(work)
    n_groups = max(1, min(MAX_SHARDS, total // _MIN_SHARD_PX))
    groups: dict[int, list[SlideInfo]] = {}
    before = 0
    for slide, own in zip(slides, work, strict=True):
        groups.setdefault((before + own // 2) * n_groups // total, []).append(slide)
        before += own
    yield from groups.values()


def window_encoding(
    identity: dict[str, Json],
    network: NetworkSettings,
    evaluation: EvaluationSettings,
    store: TileStore,
    split: Split,
    device: torch.device,
    precision: str,
) -> Encoding[Iterator[Tensor]]:
    """Return the work of computing a shard of ``plan_windows``; which windows are needed is decided here."""
    n_classes, store = len(store.class_map), store.frugal()
    model = build_segmenter(network, n_classes).eval().to(device)
    how = Stitching.of(evaluation, store.info.tile_px, device, precision)
    view = LabelView.for_evaluation(store, split, evaluation.part)
    shapes = MapShapes(network, n_classes)
    blocks: list[Block] = []
    together: list[tuple[SlideInfo, Sequence[Place]]] = []
    wanted = set(_slides_of(identity))
    for slide in (slide for slide in view.slides if slide.slide_id in wanted):
        counted, size = CountedArea(store, view, slide), how.size(slide.height, slide.width)
        if counted.is_empty:
            continue
        seen: dict[Place, None] = {}
        for panel in how.panels(slide.height, slide.width, n_classes):
            # A window across the border of two panels is encoded with those of the first.
            new = [place for place in panel.places if place not in seen and counted.has(*place, *size)]
            together += [(slide, batch) for batch in batches(new, size)]
            seen |= dict.fromkeys(new)
        blocks.append(Block(slide.slide_id, *size, tuple(seen), shapes.of(*size)))
    lengths = {block.slide_id: n_values(block.shapes) for block in blocks}

    def read(number: int) -> Iterator[Tensor]:
        slide, places = together[number]
        windows = ImageWindows(partial(store.image, slide.slide_id), how)
        return windows.views(places, how.size(slide.height, slide.width))

    @torch.inference_mode()
    def encode(number: int, views: Iterator[Tensor]) -> tuple[list[Tensor], NDArray[np.uint8]]:
        _, places = together[number]
        with how.autocast():
            records = [flattened(model.encode(images), _DTYPE) for images in views]
        return records, np.zeros((len(places), len(records)), dtype=np.uint8)

    return Encoding(
        identity,
        blocks,
        len(how.views),
        _DTYPE,
        [Batch(len(places), lengths[slide.slide_id]) for slide, places in together],
        read,
        encode,
    )


def _slides_of(identity: dict[str, Json]) -> list[str]:
    slides = identity["slides"]
    assert isinstance(slides, list)  # noqa: S101 - as planned
    return slides


class WindowFeatures:
    """Features of the windows of slides.

    Args:
        shards: folders of shards on disk, or shards in memory.
        how: views, device.

    Raises:
        DataError: a shard is damaged.
    """

    def __init__(self, shards: Sequence[Path | Records], how: Stitching) -> None:
        self._slides: dict[str, FeatureWindows] = {}
        for shard in shards:
            opened = shard if isinstance(shard, Records) else open_shard(shard)
            for block, maps in zip(opened.blocks, opened.maps, strict=True):
                self._slides[block.slide_id] = FeatureWindows(block, maps, how)

    def of(self, slide_id: str) -> FeatureWindows:
        """Return the windows of a slide of which anything is predicted."""
        return self._slides[slide_id]


class FeatureWindows:
    """Features of the windows of one slide that are predicted.

    Args:
        block: list of these windows.
        maps: their records, (windows, views, values) float32.
        how: views, device.
    """

    def __init__(self, block: Block, maps: Maps, how: Stitching) -> None:
        self._block, self._maps, self._how = block, maps, how
        self._rows = {place: row for row, place in enumerate(block.places)}

    def has(self, y: int, x: int, height: int, width: int) -> bool:
        """Whether a window has features, hence is predicted."""
        return (y, x) in self._rows

    def views(self, places: Sequence[Place], size: tuple[int, int]) -> Iterator[Encoded]:
        """Read B windows and return their views, in the memory format of the encoder."""
        rows = [self._rows[place] for place in places]
        return self._seen(rows, size, self._how.staged(self._maps[rows, 0]))

    def _seen(self, rows: Sequence[int], size: tuple[int, int], first: Tensor) -> Iterator[Encoded]:
        for number, (is_turned, _) in enumerate(self._how.views):
            read = first if number == 0 else self._how.staged(self._maps[rows, number])  # all at once would be large
            records = read.to(self._how.device, non_blocking=True)
            maps, start = [], 0
            for channels, *sides in self._block.shapes:
                height, width = reversed(sides) if is_turned else sides
                stop = start + channels * height * width
                level = records[:, start:stop].view(len(rows), channels, height, width)
                maps.append(level.contiguous(memory_format=torch.channels_last))
                start = stop
            yield Encoded(maps, (size[1], size[0]) if is_turned else size)
