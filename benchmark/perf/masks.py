"""Benchmark of pseudo-masks: their cost relative to the network's own passes, and whether memory grows with the tiles.

*Pseudo-masks*: reading a batch of tiles with their tags, activation maps at three depths, masks from them, and the
records on disk; as a worker does it after the last step of a stage, on images and not on cached features. *Bare
passes*, on the same images in memory: the minimum for Grad-CAM is one forward pass and one backward pass per class down
to the shallowest of the three maps; for the heads, one forward pass. The classifier is not trained, which does not
affect the time.

Blocks of tiles alternate, bare and annotated, so that load on the machine affects neighbours alike.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from tissuebench.common.progress import ProgressDisplay
from tissuebench.datasets.catalog.synthetic import CLASS_MAP
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import StepDataset
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import TISSUE_DOWNSAMPLE, StoreInfo
from tissuebench.datasets.types import LabelCosts, Supervision, TagBatch, Tile
from tissuebench.errors import ConfigError
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.encoder import ImageEncoder, build_encoder
from tissuebench.methods.networks.settings import EncoderMode, NetworkSettings, Weights
from tissuebench.methods.pseudo_labels.tag_classifier import LAYERS, MapSource
from tissuebench.methods.pseudo_labels.tag_stages import ClassifierSettings, TagClassification
from tissuebench.perf.ratios import Rates, Ratio, ratio, show
from tissuebench.perf.slide_forms import draw
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.schema import load_plan
from tissuebench.runtime.machine import detect_machine
from tissuebench.training.build import task_of
from tissuebench.training.pseudo_mask_store import write_pseudo_masks

GOAL, MEMORY_GOAL = 1.3, 1.05
_TILE_PX, _MPP, _SEED = 128, 1.0, 0
_AT_ONCE = 16
"""Tiles that a worker annotates in one batch."""
_BLOCK = 96
_SETTLED = 2
"""Blocks until memory is first measured."""
_LEAST = {MapSource.GRAD_CAM: "1 forward and K backward passes", MapSource.HEADS: "1 forward pass"}


@dataclass(frozen=True, slots=True)
class MeasuredBlocks:
    """Measurements of each block: tiles per second of both ways, (R,), and process memory after it, (R,) bytes."""

    masks: Rates
    bare: Rates
    memory: NDArray[np.int64]


def run(console: Console, as_json: bool, n_tiles: int = 1000) -> list[Ratio]:
    """Draw a slide, annotate its tiles with the smoke plan's network, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        n_tiles: tiles of 128 px to annotate with Grad-CAM, and as many with heads.

    Raises:
        ConfigError: too few tiles for memory use to settle.
    """
    least = 2 * _SETTLED * _BLOCK
    if n_tiles < least:
        raise ConfigError(f"perf-masks: {n_tiles} tiles are too few; give at least {least}")
    network = smoke_network()
    with (
        tempfile.TemporaryDirectory(prefix="tissuebench-perf-") as scratch,
        ProgressDisplay(Console(stderr=True, highlight=False)) as display,
    ):
        display.note(f"drawing tissue for {n_tiles} tiles of {_TILE_PX} px ...")
        data = drawn(Path(scratch), n_tiles)
        found = {
            maps: measure(data, network, maps, n_tiles, Path(scratch), _BLOCK, display)
            for maps in (MapSource.GRAD_CAM, MapSource.HEADS)
        }
    lines = compare(found, _BLOCK)
    weights = "pretrained" if network.weights is Weights.PACKAGE else "random weights"
    show(f"Pseudo-masks of {n_tiles} tiles, relative ({network.encoder}, {weights})", lines, console, as_json)
    return lines


def smoke_network() -> NetworkSettings:
    """Return the network of the smoke plan; with random weights if the package with its weights is not installed."""
    network = load_plan("smoke").network
    try:
        build_encoder(network)
    except ConfigError:
        return network.model_copy(update={"weights": Weights.NONE, "encoder_mode": EncoderMode.FINETUNE})
    return network


def drawn(folder: Path, n_tiles: int) -> PlannedData:
    """Write one slide of drawn tissue, all of it in the training part, with at least ``n_tiles`` tiles of 128 px."""
    size_px = math.ceil(math.sqrt(n_tiles)) * _TILE_PX
    image, labels = draw(size_px, _SEED)
    info = StoreInfo("perf", _MPP, _TILE_PX, LabelCosts(), min_tag_share=0.1)
    writer = StoreWriter(folder / "store.zarr", info, CLASS_MAP)
    tissue = np.ones_like(labels[::TISSUE_DOWNSAMPLE, ::TISSUE_DOWNSAMPLE])
    writer.add("slide", "patient", (), image, labels, tissue)
    return PlannedData(writer.seal(), Split("perf", {"train": ("patient",)}))


def measure(
    data: PlannedData,
    network: NetworkSettings,
    maps: MapSource,
    n_tiles: int,
    scratch: Path,
    block: int,
    display: ProgressDisplay | None = None,
) -> MeasuredBlocks:
    """Annotate ``n_tiles`` block by block, each after the bare passes over the same tiles.

    Args:
        data: store and split; the tags of its training part are all bought.
        network: network that provides the classifier's encoder.
        maps: source of the classifier's maps.
        n_tiles: at most the number of tiles with a tag; tiles that do not fill a block are left out.
        scratch: a folder; the pseudo-masks go to a subfolder of it.
        block: tiles per block.
        display: shows the tiles.
    """
    device = detect_machine(network.encoder_mode).device
    torch.manual_seed(_SEED)
    stage = TagClassification(task_of(data, network, TrainingSettings()), ClassifierSettings(maps=maps))
    kinds = frozenset({Supervision.TAGS})
    view = LabelView.for_training(data.store, data.split, draw_budget(data.store, data.split, "tags:all", 0), kinds)
    steps = StepDataset(data.store, view, stage.streams(), _SEED, None)
    stage.survey(steps.all_tags())
    stage.to(device).eval()
    encoder = stage.classifier.encoder
    if not isinstance(encoder, ImageEncoder):
        raise TypeError(f"{type(encoder).__name__} is not the shared encoder")
    head = nn.Linear(encoder.channels[-1], len(data.store.class_map), device=device)
    tiles = steps.tiles(stage.stream)[:n_tiles]
    blocks = [tiles[start : start + block] for start in range(0, len(tiles) - block + 1, block)]
    process = psutil.Process()
    of_masks, of_bare, closing, memory = list[float](), list[float](), list[float](), list[int]()

    def annotated() -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
        for number, members in enumerate(blocks, start=1):
            chunks = [members[start : start + _AT_ONCE] for start in range(0, block, _AT_ONCE)]
            images = [torch.from_numpy(data.store.images(chunk, data.store.info.tile_px)) for chunk in chunks]
            began = time.perf_counter()
            for pixels in images:
                bare_passes(encoder, head, pixels.to(device), backward=maps is MapSource.GRAD_CAM)
            del images
            middle = time.perf_counter()
            for chunk in chunks:
                tagged = cast("TagBatch", steps.load(stage.stream, chunk).to(device))
                layers = stage.annotate(tagged)
                yield from zip(chunk, layers.cpu().numpy(), strict=True)
            of_masks.append(time.perf_counter() - middle)  # its last record is written by now
            of_bare.append(middle - began)
            memory.append(process.memory_info().rss)
            if display is not None:
                display.phase(f"annotating tiles, {maps}", number * block, len(blocks) * block)
        closing.append(time.perf_counter())

    folder = scratch / maps.value
    folder.mkdir()
    write_pseudo_masks(folder, annotated())
    of_each = (time.perf_counter() - closing[0]) / len(blocks)  # the time of writing at the end is shared by all blocks
    return MeasuredBlocks(
        block / (np.array(of_masks) + of_each), block / np.array(of_bare), np.array(memory, dtype=np.int64)
    )


def bare_passes(encoder: ImageEncoder, head: nn.Linear, images: Tensor, backward: bool) -> Tensor | None:
    """Run one forward pass and, if requested, one backward pass per class from the head down to the shallowest tap.

    Args:
        encoder: the network.
        head: classifier of the deepest map after its ReLU, pooled over its pixels.
        images: (B, 3, H, W) uint8.
        backward: whether to run backward passes; otherwise no graph is built, either.

    Returns:
        (B, K, C, h, w) gradients of the K logits with respect to the shallowest of the three deepest maps; None without
        backward passes.
    """
    with torch.set_grad_enabled(backward):
        pixels = (images.float() / 255).requires_grad_(backward)
        taps = encoder.encode(pixels, through=backward)[-len(LAYERS) :]
        if not backward:
            return None
        logits: Tensor = head(taps[-1].relu().mean(dim=(2, 3)))
        n_classes = logits.shape[1]
        gradients = [
            torch.autograd.grad(logits[:, k].sum(), taps[0], retain_graph=k + 1 < n_classes)[0]
            for k in range(n_classes)
        ]
    return torch.stack(gradients, dim=1)


def compare(found: Mapping[MapSource, MeasuredBlocks], block: int) -> list[Ratio]:
    """Compare the seconds of both kinds with those of their bare passes, without the first block, and the memory."""
    lines = []
    for maps, measured in found.items():
        name = f"seconds of pseudo-masks ({maps}) to those of {_LEAST[maps]}"
        goal = GOAL if maps is MapSource.GRAD_CAM else None
        lines.append(ratio(name, measured.bare[1:], measured.masks[1:], goal, at_most=True))
    for maps, measured in found.items():
        early, late = measured.memory[_SETTLED - 1].item(), measured.memory[-1].item()
        name = f"memory after {block * len(measured.memory)} tiles ({maps}) to that after {block * _SETTLED}"
        note = f"{late / 2**20:,.0f} MB against {early / 2**20:,.0f} MB"
        lines.append(Ratio(name, late / early, MEMORY_GOAL, note, at_most=True))
    return lines
