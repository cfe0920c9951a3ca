"""The tasks of some trials, one after another in this process and without a runner; and stores with other labels."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.processes import run_processes, start_script
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import Supervision
from tissuebench.methods.pseudo_labels import tag_classifier
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial
from tissuebench.runtime.processes import ALONE, any_over_processes
from tissuebench.sweep.graph import build_graph
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.run_task import Surroundings, run_task
from tissuebench.sweep.state.folders import task_folder
from tissuebench.training.checkpoints import FITTED, read_torch


def run_by_hand(trials, data, home, shown=None, world=ALONE, stop=lambda: False, report=lambda *_: None):
    """Run all tasks on ``shown`` in place of the ``data`` that they were planned for; what each has made, by its key.

    What a stage has made is its state, its record of pseudo-masks and its folder; of a trial, its state and folder.
    """
    shown = shown or data
    stores = {(home, trial.store_sha256, trial.split_sha256): shown for trial in trials}
    around = Surroundings(world, 1e6, report, stop, lambda: 0, stores)
    made = {}
    for task in build_graph(trials, data, home).values():
        folder = task_folder(home, task.job.kind, task.key)
        folder.mkdir(parents=True, exist_ok=True)
        run_task(task.job, around, lambda: None)
        any_over_processes(False)  # nobody reads before the first process has written
        if task.job.kind is TaskKind.FEATURES or world.rank > 0:
            continue
        masks = [path.read_bytes() for path in sorted(folder.glob("pseudo.*"))]
        made[task.key] = (task.job.kind, read_torch(folder / FITTED)["state"], masks, folder)
    return made


def with_labels(data, path, labels_of, diagnosis_of=None, **info):
    """A store of the same images with other labels: ``labels_of(slide, truth)`` are a slide's masks."""
    store = data.store
    writer = StoreWriter(path, replace(store.info, **info), store.class_map)
    for slide in store.slides.values():
        truth = store.withheld.mask(slide.slide_id, 0, 0, slide.height, slide.width)
        diagnosis = store.withheld.diagnosis(slide.slide_id)
        if diagnosis_of is not None:
            diagnosis = diagnosis_of(slide, diagnosis)
        image = store.image(slide.slide_id, 0, 0, slide.height, slide.width).transpose(1, 2, 0)
        labels = labels_of(slide, truth)
        writer.add(slide.slide_id, slide.patient_id, diagnosis, image, labels, store.tissue(slide.slide_id))
    return PlannedData(writer.seal(), data.split)


def poisoned(data, budget, kinds, path):
    """A store whose images are the same and whose withheld labels are garbage.

    Where tags were bought and no mask, the pixels of each tile are shuffled: its tags are what they were, and its mask
    is garbage, too.
    """
    rng, train = np.random.default_rng(0), set(data.split.patients("train"))
    diagnoses, size = list(data.store.class_map.diagnoses), data.store.info.tile_px

    def labels_of(slide, truth):
        labels = rng.integers(0, len(data.store.class_map), truth.shape, dtype=np.uint8)
        for tile in grid(slide, size):
            where = np.s_[tile.y : tile.y + size, tile.x : tile.x + size]
            has_mask = slide.patient_id in budget.patients or tile in budget.mask_tiles
            has_tags = slide.patient_id in budget.tags.patients or tile in budget.tags.tiles
            if has_mask and Supervision.MASKS in kinds:
                labels[where] = truth[where]
            elif has_tags and Supervision.TAGS in kinds:
                labels[where] = rng.permutation(truth[where].ravel()).reshape(size, size)
        return labels

    def diagnosis_of(slide, diagnosis):
        if slide.patient_id in train and Supervision.DIAGNOSIS in kinds:
            return diagnosis
        return (diagnoses[int(rng.integers(len(diagnoses)))],)

    return with_labels(data, path, labels_of, diagnosis_of)


def run_together(size, trial, bench, home):
    """``run_by_hand`` in several processes, whose classifiers of tags have no dropout."""
    told = [trial.document(), str(home), str(bench.home / "data" / bench.data.store.info.dataset), size]
    start_script("tests.benchmark.by_hand", json.dumps(told))


if __name__ == "__main__":
    document, where, dataset, n_processes = json.loads(sys.argv[1])
    tag_classifier._HEADS_DROPOUT = 0.0

    def run_one(world):
        folder = Path(dataset)
        opened = PlannedData(TileStore(folder / "store.zarr"), Split.read(folder / "split.json"))
        run_by_hand([Trial.of_document(document)], opened, Path(where), world=world)

    run_processes(n_processes, run_one)
