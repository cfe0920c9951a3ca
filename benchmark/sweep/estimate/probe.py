"""Speed probe of a plan's network on this machine: a few steps on random tiles, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tissuebench.datasets.loading.augment import augment
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.features.shards import without_weights
from tissuebench.methods.api.method import masked_cross_entropy
from tissuebench.methods.networks import Segmenter, build_segmenter
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.runtime.machine import detect_machine
from tissuebench.runtime.precision import autocast

_STEPS, _WARM_UP, _LONGEST_SECONDS = 5, 2, 5.0
_ENCODED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """Seconds on this machine, in one process that has it to itself.

    Attributes:
        tile: seconds of training per tile of a step's batches.
        encoded: seconds per tile whose features are cached, all variants; 0 if none are.
        predicted: seconds per pixel that is predicted from images.
        decoded: seconds per pixel that is predicted from features; 0 if none are cached.
        flop: floating-point operations of training per tile, a multiplication and an addition counted as two.
    """

    tile: float
    encoded: float
    predicted: float
    decoded: float
    flop: float


def probe(
    network: NetworkSettings, augmentation: AugmentSettings, batch_size: int, tile_px: int, n_classes: int
) -> Probe:
    """Time the network with random weights: nothing is downloaded.

    Args:
        network: network of the plan.
        augmentation: augmentation of the plan.
        batch_size: tiles per batch.
        tile_px: edge of a tile.
        n_classes: number of classes of the dataset.
    """
    machine = detect_machine(network.encoder_mode)
    model = untrained(network, n_classes, tile_px).to(machine.device).train()
    random = torch.Generator().manual_seed(0)
    size = max(batch_size, _ENCODED_AT_ONCE)
    images = torch.randint(0, 256, (size, 3, tile_px, tile_px), dtype=torch.uint8, generator=random)
    images = images.to(machine.device)
    edge = augmentation.crop_px or tile_px
    masks = torch.randint(0, n_classes, (batch_size, edge, edge), generator=random).to(machine.device)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], fused=True)
    cached = network.caches_features

    def encode() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            for _ in range(1, network.feature_variants):
                model.encode(augment(images[:_ENCODED_AT_ONCE], 0, augmentation)[0])
            return model.encode(images[:_ENCODED_AT_ONCE])

    features = tuple(torch.randn((batch_size, *level.shape[1:])).to(level) for level in encode()) if cached else ()

    def train() -> None:
        inputs = features if cached else augment(images[:batch_size], 0, augmentation)[0]
        with autocast(machine.device, machine.precision):
            loss = masked_cross_entropy(model(inputs), masks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.inference_mode()
    def predict(inputs: Tensor | tuple[Tensor, ...]) -> None:
        with autocast(machine.device, machine.precision):
            model(inputs).float().softmax(dim=1)

    with FlopCounterMode(display=False) as counter:
        train()
    trained, encoded = _seconds(train), _seconds(encode) if cached else 0.0
    model.eval()
    return Probe(
        tile=trained / batch_size,
        encoded=encoded / _ENCODED_AT_ONCE,
        predicted=_seconds(lambda: predict(images)) / (size * tile_px**2),
        decoded=_seconds(lambda: predict(features)) / (batch_size * tile_px**2) if cached else 0.0,
        flop=counter.get_total_flops() / batch_size,
    )


def untrained(network: NetworkSettings, n_classes: int, tile_px: int | None = None) -> Segmenter:
    """Build the network with random weights, frozen if the plan's is."""
    return build_segmenter(without_weights(network), n_classes, tile_px)


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Use as many threads as a slot has for the duration of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(work: Callable[[], object]) -> float:
    """Return the median of a few runs, or of fewer for large networks on slow machines."""
    taken: list[float] = []
    while len(taken) < _WARM_UP + _STEPS and (len(taken) < 2 or sum(taken) < _LONGEST_SECONDS):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[min(_WARM_UP, len(taken) - 1) :])
