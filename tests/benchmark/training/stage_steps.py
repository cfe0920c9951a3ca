"""Steps of every stage of a trial, alone or among others; as a script, several processes take one together."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from tests.benchmark.training.ddp_tasks import MACHINE
from tests.processes import run_processes
from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.methods.api import find_method
from tissuebench.methods.api.stage import Trainable
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial
from tissuebench.results.records.curves import read_curves
from tissuebench.sweep.graph import stages_of
from tissuebench.training.build import task_of
from tissuebench.training.fit import fit, seed_everything

LAST = "last stage"


class Drawn:
    """Pseudo-masks drawn at random, in place of those of a trained stage."""

    def __init__(self, view, layers, n_classes, tile_px):
        self.tiles = frozenset(view.tag_tiles())
        self._shape, self._n_classes = (layers, tile_px, tile_px), n_classes

    def read(self, tiles):
        rngs = [np.random.default_rng([tile.y, tile.x, int(tile.slide_id[-2:])]) for tile in tiles]
        return np.stack([rng.integers(self._n_classes, size=self._shape, dtype=np.uint8) for rng in rngs])


def in_double(module):
    """Let the stage compute in float64, whatever its layers are called with, but for losses that convert to float32."""

    def convert(_, inputs):
        return tuple(each.double() if torch.is_tensor(each) and each.is_floating_point() else each for each in inputs)

    for part in module.double().modules():
        if next(part.children(), None) is None:
            part.register_forward_pre_hook(convert)


def steps_of_each_stage(document, double, data, folder, world, machine=MACHINE):
    """Losses, first gradients, state and its digest of every stage of the trial after its steps, by the stage's name.

    A stage inherits from stages before it that learnt nothing. It takes the steps of the last one.
    """
    trial = Trial.of_document(document)
    kind, done, states, pseudo = find_method(trial.method), {}, {}, {}
    stages = [(stage.name, stage.module, stage.config, stage.consumes, stage.needs) for stage in stages_of(trial)]
    names = tuple(name for name, *_ in stages)
    for name, built_by, config, consumes, needs in [*stages, (LAST, kind, trial.config, kind.consumes, names)]:
        seed_everything(derive_seed(trial.seed, "init"))
        module = built_by(task_of(data, trial.network, trial.training), config)
        view = LabelView.for_training(data.store, data.split, trial.budget, consumes)
        seed = derive_seed(trial.seed, name)
        steps = trial.training.steps
        batches = TileDataModule(data.store, view, module.streams(), seed, steps, trial.augmentation, pseudo=pseudo)
        module.survey(batches.steps.all_tags())
        states[name] = {key: value.clone() for key, value in module.state_dict().items()}
        if needs:
            module.inherit({need: states[need] for need in needs})
        if module.layers:
            pseudo[name] = Drawn(view, len(module.layers), len(data.store.class_map), data.store.info.tile_px)
        if double:
            in_double(module)
        done[name] = _after_steps(module, batches, folder / f"{document['method']}-{name[:4]}", seed, world, machine)
    return done


def _after_steps(module, batches, folder, seed, world, machine):
    seen, clip = {}, module.configure_gradient_clipping

    def recorded(optimizer, *arguments, **named):
        if not seen:
            scaler = getattr(module.trainer.precision_plugin, "scaler", None)
            scale = scaler.get_scale() if scaler else 1.0
            trained = {key: p for key, p in module.named_parameters() if p.grad is not None}
            seen["gradients"] = {key: (p.grad / scale).cpu() for key, p in trained.items()}
            seen["before"] = {key: p.detach().clone().cpu() for key, p in trained.items()}
        clip(optimizer, *arguments, **named)

    module.configure_gradient_clipping = recorded
    folder.mkdir(parents=True, exist_ok=True)
    fit(module, batches, folder, seed, machine, lambda _: None, world=world)
    state = module.cpu().state_dict()
    together = b"".join(value.contiguous().numpy().tobytes() for value in state.values())
    losses = [loss for _, loss in read_curves(folder)["train/loss"]]
    told = {"loss": losses[-1], "losses": losses, "digest": hashlib.sha256(together).hexdigest()}
    return told if world.rank else {**told, **seen, "state": state}


def main(where, folder, size):
    Trainable.progress = property(lambda stage: 1.0)
    asked = json.loads((folder / "trials.json").read_text())

    def run(world):
        data = PlannedData(TileStore(where / "store.zarr"), Split.read(where / "split.json"))
        done = [steps_of_each_stage(document, asked["double"], data, folder, world) for document in asked["trials"]]
        torch.save(done, folder / f"rank{world.rank}.pt")

    run_processes(size, run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
