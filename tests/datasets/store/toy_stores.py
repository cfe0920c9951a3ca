"""Small stores of random slides."""

from __future__ import annotations

import numpy as np

from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo, TileStore
from tissuebench.datasets.types import ClassMap, LabelCosts

CLASSES = ClassMap(("glass", "a", "b"), ((240, 240, 240), (10, 20, 30), (40, 50, 60)), {"A": ("a",), "B": ("b",)})
INFO = StoreInfo("toy", 0.5, 32, LabelCosts(), "f00")
HEIGHT, WIDTH = 1100, 1301  # odd, two levels


def slide(seed: int, height: int = 40, width: int = 50):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width))
    tissue = rng.integers(0, 2, (-(-height // 16), -(-width // 16)), dtype=np.uint8)
    return image, labels, tissue


def written(path, slides, info=INFO, classes=CLASSES, codec="lz4") -> TileStore:
    writer = StoreWriter(path, info, classes, codec)
    for slide_id, (diagnosis, arrays) in slides.items():
        writer.add(slide_id, f"P{slide_id}", diagnosis, *arrays)
    return writer.seal()
