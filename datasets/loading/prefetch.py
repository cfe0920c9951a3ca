"""Batches that are copied to the device while the step before them runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from tissuebench.datasets.types import TrainingBatch


class Prefetched:
    """Iterable over batches on ``device``, each copied there on a stream of its own, one step ahead.

    The copies overlap with the computation of the step before only from page-locked memory (``pin_memory``). Stopping
    early loses the batch that was copied ahead.

    Args:
        batches: batches on the CPU.
        device: their destination.
    """

    def __init__(self, batches: Iterable[TrainingBatch], device: torch.device) -> None:
        self._batches, self._device = batches, device

    def __iter__(self) -> Iterator[TrainingBatch]:
        streams: Any = torch.get_device_module(self._device)  # torch.cpu has the same functions, which do nothing
        copying = streams.Stream()
        ahead: tuple[TrainingBatch, Any] | None = None
        for batch in self._batches:
            with streams.stream(copying):
                copied = batch.to(self._device, non_blocking=True), copying.record_event()
            if ahead is not None:
                yield self._ready(*ahead)
            ahead = copied
        if ahead is not None:
            yield self._ready(*ahead)

    def _ready(self, batch: TrainingBatch, copied: Any) -> TrainingBatch:  # noqa: ANN401 - an event of any device
        """Have the current stream wait for the copy; its memory is not reused before that stream is done with it."""
        current: Any = torch.get_device_module(self._device).current_stream()
        current.wait_event(copied)
        if self._device.type != "cpu":
            for tensor in (tensor for tiles in batch.values() for tensor in tiles.tensors()):
                tensor.record_stream(current)
        return batch
