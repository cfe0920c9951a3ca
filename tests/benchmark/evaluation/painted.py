"""Slides whose colours say their classes, in a store of their own."""

from __future__ import annotations

import numpy as np

from tests.benchmark.evaluation.test_evaluate import COLOURS
from tissuebench.datasets.labels.draw_budget import annotated_tiles, taggable_tiles
from tissuebench.datasets.labels.open_tiles import Opened
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.types import ClassMap, LabelCosts, Supervision

KINDS = frozenset({Supervision.MASKS, Supervision.DIAGNOSIS})


def store_of(path, slides):
    """A store of slides: by name (painted classes, truth, diagnosis); all of them are tissue but the first 16 rows."""
    classes = ClassMap(tuple("abcd"), COLOURS, {"A": ("c",), "B": ("d",)})
    writer = StoreWriter(path / "store.zarr", StoreInfo("toy", None, 32, LabelCosts()), classes)
    for name, (painted, truth, diagnosis) in slides.items():
        tissue = np.ones(tuple(-(-side // 16) for side in truth.shape), dtype=np.uint8)
        tissue[:1] = 0
        image = painted if painted.ndim == 3 else np.array(COLOURS, dtype=np.uint8)[painted]
        writer.add(name, name, diagnosis, image, truth, tissue)
    return writer.seal()


def view_of(store):
    """All masks and diagnoses of a store."""
    slides = tuple(store.slides.values())
    masks = Opened(store, [slide.patient_id for slide in slides], (), annotated_tiles)
    return LabelView(store, slides, KINDS, masks, Opened(store, (), (), taggable_tiles))
