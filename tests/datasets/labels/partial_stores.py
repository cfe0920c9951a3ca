"""A store of partly annotated slides, and label views of the budgets drawn from it."""

from __future__ import annotations

import numpy as np

from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import Case, StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.types import ClassMap, LabelCosts, Supervision

ALL_KINDS = frozenset({Supervision.MASKS, Supervision.TAGS, Supervision.DIAGNOSIS})
PARTIAL = ClassMap(("a", "b", "c", "d"), tuple((n, n, n) for n in range(4)), {"B": ("b",), "C": ("c",)})
SHAPES = ((80, 72), (64, 96), (20, 24), (33, 100))
TAGGED = "p5"
MASKS_ONLY, TAGS_ONLY = frozenset({Supervision.MASKS}), frozenset({Supervision.TAGS})


def partly_annotated(path, poison=lambda labels, slide: labels, **info):
    """Six patients, two slides each, blocks of classes and of nothing; nobody annotated p4's, p5's have tags."""
    rng = np.random.default_rng(3)
    costs = LabelCosts(mask_minutes_per_tile=2, tags_minutes_per_tile=0.5)
    writer = StoreWriter(path, StoreInfo("partial", None, 32, costs, **info), PARTIAL)
    cases = {}
    for number in range(12):
        slide_id, patient, (height, width) = f"s{number:02}", f"p{number // 2}", SHAPES[number % 4]
        blocks = rng.choice([0, 1, 2, 3, 255, 255, 255], size=(-(-height // 8), -(-width // 8))).astype(np.uint8)
        labels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        labels[:, : width // 2] = 255
        if patient in ("p4", TAGGED):
            labels[:] = 255
        tissue = rng.integers(0, 2, (-(-height // 16), -(-width // 16))).astype(np.uint8)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        writer.add(slide_id, patient, (), image, poison(labels, slide_id), tissue)
        cases[slide_id] = Case(patient, (), ("b", "d") if patient == TAGGED else None)
    return writer.seal(cases)


PARTIAL_SPLIT = Split("partial", {"train": tuple(f"p{n}" for n in range(6))})


def bought_with(store, spec, replicate=0, kinds=MASKS_ONLY, spending=None, **options):
    budget = draw_budget(store, PARTIAL_SPLIT, spec, replicate, spending or Spending())
    return budget, LabelView.for_training(store, PARTIAL_SPLIT, budget, kinds, **options)
