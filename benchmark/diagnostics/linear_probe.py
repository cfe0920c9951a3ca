"""Linear probe of a stage's features: how well a linear classifier on a few tiles separates the classes.

For inspection only: nothing is trained on it and no number of a table depends on it. It reads withheld masks, through
``LabelView.for_evaluation``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import IGNORE_LABEL, Tile
from tissuebench.evaluation.slide_counts import confusion
from tissuebench.results.metrics import miou

_TILES, _AT_ONCE, _RIDGE = 48, 16, 1e-2


def probe_miou(store: TileStore, split: Split, maps: Callable[[Tensor], Tensor]) -> float | None:
    """Return the mean IoU of a ridge classifier on standardised features, with each position of the map as a sample.

    Every second patient of the training part provides up to 48 tiles to fit it, the other patients as many to score it;
    all classes have equal weight. None if fewer than two patients have masks, or no position of the map is annotated in
    either half.

    Args:
        store: the store with the tiles.
        split: its training part is used, withheld masks included.
        maps: computes features (B, C, h, w) of images (B, 3, H, W) uint8.
    """
    view = LabelView.for_evaluation(store, split, "train")
    tiles = view.mask_tiles()
    patients = sorted({store.slides[tile.slide_id].patient_id for tile in tiles})
    if len(patients) < 2:
        return None
    fitted = set(patients[::2])
    mine = [tile for tile in tiles if store.slides[tile.slide_id].patient_id in fitted]
    others = [tile for tile in tiles if store.slides[tile.slide_id].patient_id not in fitted]
    n_classes = len(view.class_map)
    features, labels = _features_and_labels(spaced(mine, _TILES), store, view, maps)
    of_others, truth = _features_and_labels(spaced(others, _TILES), store, view, maps)
    if not len(labels) or not len(truth):
        return None
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    weights = _ridge((features - mean) / spread, labels, n_classes)
    scores = _with_constant((of_others - mean) / spread) @ weights
    return float(miou(confusion(truth, scores.argmax(axis=1).astype(np.uint8), n_classes)))


def spaced(tiles: Sequence[Tile], count: int) -> list[Tile]:
    """Return at most ``count`` of the tiles, evenly spaced."""
    places = np.linspace(0, len(tiles) - 1, min(count, len(tiles))).round().astype(int)
    return [tiles[place] for place in places]


def _features_and_labels(
    tiles: Sequence[Tile], store: TileStore, view: LabelView, maps: Callable[[Tensor], Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return features (N, C) and labels (N,) of all annotated positions of the maps; a label is taken at the centre."""
    size = store.info.tile_px
    features, labels = [], []
    for start in range(0, len(tiles), _AT_ONCE):
        chunk = tiles[start : start + _AT_ONCE]
        made = maps(torch.from_numpy(store.images(chunk, size))).float().cpu()
        masks = torch.from_numpy(view.masks(chunk, size))[:, None].float()
        places = functional.interpolate(masks, size=made.shape[-2:], mode="nearest-exact").flatten().numpy()
        annotated = places != IGNORE_LABEL
        features.append(made.permute(0, 2, 3, 1).flatten(0, 2).numpy()[annotated].astype(np.float64))
        labels.append(places[annotated].astype(np.uint8))
    return np.concatenate(features), np.concatenate(labels)


def _ridge(features: NDArray[np.float64], labels: NDArray[np.uint8], n_classes: int) -> NDArray[np.float64]:
    """Return (C + 1, K) weights of the regression to one-hot labels; every class present has the same total weight."""
    x, y = _with_constant(features), np.eye(n_classes, dtype=np.float64)[labels]
    counts = np.bincount(labels, minlength=n_classes)
    weighted = x / counts[labels][:, None]
    penalty = _RIDGE * np.eye(x.shape[1])
    penalty[-1, -1] = 0  # the constant term is not regularised
    solved = np.linalg.lstsq(weighted.T @ x + penalty, weighted.T @ y, rcond=None)[0]
    return solved.astype(np.float64)


def _with_constant(features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([features, np.ones((len(features), 1))])
