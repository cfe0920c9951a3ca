"""Export of a finished trial's model (``tissuebench trial export``): weights, a model card, and an ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray

from tissuebench.common.files import write_aside
from tissuebench.common.folders import made_aside
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.errors import DataError
from tissuebench.prediction.load_method import Trained
from tissuebench.prediction.model_card import OnnxFacts, model_card
from tissuebench.prediction.onnx_model import OnnxModel, share_of_differing_labels, write_onnx
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder

WEIGHTS, ONNX, CARD = "model.safetensors", "model.onnx", "README.md"
TOLERANCE = 1e-4
"""Largest share of pixels whose label may differ: those whose two best classes are equal but for rounding."""
_TILES = 48


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model.

    Attributes:
        folder: folder with all files.
        onnx: facts about the ONNX graph; None without one.
    """

    folder: Path
    onnx: OnnxFacts | None


def export_model(trained: Trained, folder: Path, with_onnx: bool) -> Exported:
    """Write model.safetensors, README.md and, if asked for, model.onnx; the folder appears once all are complete.

    The ONNX graph is run in onnxruntime on tiles of the dataset before that, and compared with the method.

    Args:
        trained: the trial.
        folder: folder to create; an earlier export there is replaced.
        with_onnx: whether to write the ONNX graph.

    Raises:
        ConfigError: packages are missing, the method has no ONNX form, or another process writes the folder.
        DataError: weights or result are missing, or the graph gives other labels than the method.

    Examples:
        >>> exported = export_model(find_trained(Path("home"), "1c9ffe2a"), Path("model"), with_onnx=True)
        >>> exported.onnx.differing
        0.0
    """
    results = ResultStore(results_folder(trained.found.home)).load([trained.key])
    if not results:
        raise DataError(f"trial {trained.key}: its result is missing; run its plan again")
    method = trained.method()
    try:
        with made_aside(folder.resolve()) as work:
            state = {name: value.detach().clone().contiguous() for name, value in method.state_dict().items()}
            write_aside(work / WEIGHTS, safetensors.torch.save(state, {"format": "pt", **_metadata(trained)}))
            facts = None
            if with_onnx:
                tile_px = trained.store.info.tile_px
                is_free = write_onnx(method, tile_px, _metadata(trained), work / ONNX)
                images = sample_tiles(trained.store, _TILES)
                differing, largest = share_of_differing_labels(method, OnnxModel(work / ONNX), images)
                if differing > TOLERANCE:
                    raise DataError(
                        f"trial {trained.key}: its ONNX graph gives another label to {differing:.2%} of the pixels of "
                        f"{len(images)} tiles, and was removed; leave out --onnx"
                    )
                facts = OnnxFacts(is_free, differing, largest, len(images))
            write_aside(work / CARD, model_card(trained, results[0], facts).encode())
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return Exported(folder, facts)


def sample_tiles(store: TileStore, count: int) -> list[NDArray[np.uint8]]:
    """Return images (3, H, W) of at most ``count`` tiles with tissue, evenly spaced over all slides of a store."""
    size = store.info.tile_px
    tiles = [
        tile
        for slide in store.slides.values()
        for tile, tissue in zip(grid(slide, size), store.tile_tissue(slide.slide_id), strict=True)
        if tissue > 0
    ]
    places = np.linspace(0, len(tiles) - 1, min(count, len(tiles))).round().astype(int)
    return list(store.images([tiles[place] for place in places], size))


def _metadata(trained: Trained) -> Mapping[str, str]:
    info = trained.store.info
    classes = trained.store.class_map
    return {
        "trial": trained.key,
        "method": trained.trial.arm,
        "dataset": trained.trial.dataset,
        "classes": json.dumps(list(classes.names)),
        "colors": json.dumps([list(color) for color in classes.colors]),
        "mpp": json.dumps(info.mpp),
        "tile_px": json.dumps(info.tile_px),
        "stain": info.stain,
    }
