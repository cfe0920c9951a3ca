"""Speed probe of a plan's network on this machine: a few steps on random tiles, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from tissuebench.datasets.loading.augment import AugmentSettings, augment
from tissuebench.methods.api.method import masked_cross_entropy
from tissuebench.methods.networks import Segmenter, build_segmenter
from tissuebench.methods.networks.settings import EncoderMode, NetworkSettings, Weights
from tissuebench.runtime.machine import detect_machine

_STEPS, _WARM_UP, _LONGEST_SECONDS = 5, 2, 5.0
_ENCODED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """Seconds on this machine, in one process that has it to itself.

    Attributes:
        tile: seconds of training per tile of a step's batches.
        encoded: seconds per tile whose features are cached, all variants; 0 if the encoder is trained.
        predicted: seconds per predicted pixel.
    """

    tile: float
    encoded: float
    predicted: float


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
    masks = torch.randint(0, n_classes, (batch_size, tile_px, tile_px), generator=random).to(machine.device)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], fused=True)
    frozen = network.encoder_mode is EncoderMode.FROZEN
    autocast = torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.precision == "bf16-mixed")

    def encode() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            for _ in range(1, network.feature_variants):
                model.encode(augment(images[:_ENCODED_AT_ONCE], 0, augmentation)[0])
            return model.encode(images[:_ENCODED_AT_ONCE])

    features = tuple(torch.randn((batch_size, *level.shape[1:])).to(level) for level in encode()) if frozen else ()

    def train() -> None:
        inputs = features if frozen else augment(images[:batch_size], 0, augmentation)[0]
        with autocast:
            loss = masked_cross_entropy(model(inputs), masks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.inference_mode()
    def predict() -> None:
        with autocast:
            model(images).float().softmax(dim=1)

    trained, encoded = _seconds(train), _seconds(encode) if frozen else 0.0
    model.eval()
    return Probe(
        tile=trained / batch_size,
        encoded=encoded / _ENCODED_AT_ONCE,
        predicted=_seconds(predict) / (size * tile_px**2),
    )


def untrained(network: NetworkSettings, n_classes: int, tile_px: int | None = None) -> Segmenter:
    """Build the network with random weights, frozen if the plan's is."""
    return build_segmenter(without_weights(network), n_classes, tile_px)


def without_weights(network: NetworkSettings) -> NetworkSettings:
    """Return the same settings with random weights: as fast and as large, but nothing is loaded.

    This applies to a frozen encoder as well.
    """
    return network.model_copy(update={"weights": Weights.NONE})


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
