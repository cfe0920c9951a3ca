"""What one process of a trial does, alone or among others; as a script, several processes do a list of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from tests.processes import CPU, run_processes
from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.evaluate import SlideScorer, evaluate
from tissuebench.methods.api.method import masked_cross_entropy
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.losses.complementary import conditional_set_wise, pooled_mean
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial
from tissuebench.results.records.curves import read_curves
from tissuebench.runtime.machine import Machine
from tissuebench.runtime.processes import any_over_processes, sum_over_processes
from tissuebench.training.batch_norm import SharedStatistics
from tissuebench.training.build import task_of
from tissuebench.training.callbacks import StepSeeds
from tissuebench.training.checkpoint_selection import KeepBest
from tissuebench.training.fit import Interrupted, fit, seed_everything
from tissuebench.training.validation import Validation

MACHINE = Machine("cpu", CPU, "32-true", LoaderSettings())


def built(trial, data):
    """Method and batches of a trial, as a worker makes them."""
    seed_everything(derive_seed(trial.seed, "init"))
    method = find_method(trial.method)(task_of(data, trial.network, trial.training), trial.config)
    view = LabelView.for_training(data.store, data.split, trial.budget, method.consumes)
    steps = trial.training.steps
    return method, TileDataModule(data.store, view, method.streams(), trial.seed, steps, trial.augmentation)


def in_double(method):
    """The same network in float64, whatever it is called with."""

    def convert(_, inputs):
        (images,) = inputs
        return (images.double() / 255 if images.dtype == torch.uint8 else images.double(),)

    method.double().network.register_forward_pre_hook(convert)


def scored(method, trial, data, world, part="test"):
    view = LabelView.for_evaluation(data.store, data.split, part)
    told = []
    slides = evaluate(
        method, data.store, view, trial.evaluation, CPU, "32-true", world, lambda *done: told.append(done)
    )
    assert [row.slide for row in slides] == list(view.slides)
    return np.stack([row.counts for row in slides]), told


def one_step(trial, data, folder, world):
    """The gradients that the optimiser gets, before and after clipping, and the state after it."""
    method, batches = built(trial, data)
    if not method.network.frozen:  # batch norms on random weights make much of float32's last digits
        in_double(method)
    clip, seen = method.configure_gradient_clipping, {}

    def named():
        return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}

    def recorded(optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        seen["gradients"] = named()
        clip(optimizer, gradient_clip_val, gradient_clip_algorithm)
        seen["clipped"] = named()

    method.configure_gradient_clipping = recorded
    fit(method, batches, folder, trial.seed, MACHINE, lambda _: None, world=world)
    return {**seen, "loss": read_curves(folder)["train/loss"][-1][1], "state": method.state_dict()}


def whole(trial, data, folder, world):
    """A trial from its first step to its counts; the best of some states is kept."""
    return carried_through(*built(trial, data), trial, data, folder, world)


def whole_in_double(trial, data, folder, world):
    """The same without float32's rounding, but for the loss."""
    method, batches = built(trial, data)
    in_double(method)
    return carried_through(method, batches, trial, data, folder, world)


def carried_through(method, batches, trial, data, folder, world):
    """Fit and score."""
    view = LabelView.for_evaluation(data.store, data.split, "val")
    scorer = SlideScorer(data.store, view, trial.evaluation, CPU, MACHINE.precision, world, masks_only=True)
    validation = Validation({"val": scorer}, 4)
    keep = KeepBest(lambda: validation.scores["val/miou"])
    options = {"validation": validation, "keep_best": keep, "world": world}
    fitted = fit(method, batches, folder, trial.seed, MACHINE, lambda _: None, **options)
    files = sorted(path.name for path in folder.iterdir())
    state = {name: value.clone() for name, value in method.state_dict().items()}
    counts, told = scored(method, trial, data, world)
    return {
        "state": state,
        "history": read_curves(folder)["train/loss"],
        "samples": fitted.samples,
        "points": keep.points,
        "selected": (fitted.selected_step, keep.step),
        "files": files,
        "counts": counts,
        "told": told,
    }


def stopped(trial, data, folder, world):
    """Fit until the last process is sent SIGTERM at step 5, then to the end."""
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))

    def report(step):
        if step == 5 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    method, batches = built(trial, data)
    try:
        fit(method, batches, folder, trial.seed, MACHINE, report, world=world, stop=lambda: bool(asked))
    except Interrupted as interrupted:
        said = str(interrupted)
    signal.signal(signal.SIGTERM, before)
    step = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    if world.rank == 0:
        shutil.copytree(folder, folder.with_name("stopped-here"))
    any_over_processes(False)  # nobody goes on, and writes, before all have read
    return {"said": said, "step": step, "asked": bool(asked), **resumed(trial, data, folder, world)}


def resumed(trial, data, folder, world):
    """The end of a fit from the checkpoint in its folder."""
    method, batches = built(trial, data)
    seen = []
    fit(method, batches, folder, trial.seed, MACHINE, seen.append, world=world, stop=lambda: False)
    return {"seen": seen, "state": method.state_dict(), "history": read_curves(folder)["train/loss"]}


def losses(trial, data, folder, world):
    """Gradients of both losses on parts of a batch, averaged over the processes as DDP does."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (5, 6, 6), generator=generator)
    excluded = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    mine = slice(world.rank * 5 // world.size, (world.rank + 1) * 5 // world.size)
    last_part = (world.size - 1) * 5 // world.size if world.size > 1 else 3
    found = {}
    for name, labelled in {"some": 17, "none": 0}.items():
        masks = torch.where(torch.arange(5 * 36).view(5, 6, 6) < labelled, labels, IGNORE_LABEL)
        assert (masks[last_part:] == IGNORE_LABEL).all()  # the last process has no labelled pixel
        weight = torch.eye(4, 3, dtype=torch.float64).requires_grad_()
        logits = torch.einsum("kc,bchw->bkhw", weight, features[mine])
        informative = excluded[mine].any(dim=1)[:, None, None].expand(-1, 6, 6) & (labelled > 0)
        weak = conditional_set_wise(logits, excluded[mine], torch.tensor([0, 0, 1, 1]).bool(), 2.0)
        loss = masked_cross_entropy(logits, masks[mine]) + pooled_mean(weak.double(), informative)
        loss.backward()
        found[name] = [sum_over_processes(value) / world.size for value in (loss, weight.grad)]
    return found


def norms(trial, data, folder, world):
    """Output, gradients and running moments of batch norms on parts of a batch."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(5, 4, 7, 3, generator=generator, dtype=torch.float64) * 3 + 1
    target = torch.randn(5, 4, 7, 3, generator=generator, dtype=torch.float64)
    mine = slice(world.rank * 5 // world.size, (world.rank + 1) * 5 // world.size)
    found = []
    for norm in (nn.BatchNorm2d(4, momentum=None), BatchNormAct2d(4, inplace=False), nn.BatchNorm2d(4, affine=False)):
        model = nn.Sequential(nn.Conv2d(4, 4, 1), norm).double()
        for number, parameter in enumerate(model.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
        shared = SharedStatistics(CPU)
        if world.size > 1:
            shared.apply(model)
        for _ in range(2):
            output = model(x[mine])
            (output * target[mine]).sum().backward()
        shared.revert(model)
        assert "forward" not in vars(norm)
        gradients = [sum_over_processes(p.grad) for p in model.parameters()]
        evaluated = model.eval()(x)
        found.append([output, *gradients, *norm.buffers(), evaluated])
    return {"part": (mine.start, mine.stop), "norms": found}


def who(trial, data, folder, world):
    """What the processes agree on, and what they draw in a step: the same."""

    class Trainer:
        global_step = 3

    StepSeeds(7).on_train_batch_start(Trainer, None, None, 0)
    return {
        "world": world,
        "drawn": torch.rand(()).item(),
        "any": [any_over_processes(world.rank == 1), any_over_processes(False)],
        "sum": sum_over_processes(torch.tensor([2**60 + world.rank, 1])),
    }


TASKS = {task.__name__: task for task in (one_step, whole, whole_in_double, stopped, resumed, losses, norms, who)}


if __name__ == "__main__":
    where, results_folder, n_processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

    def run_tasks(world):
        opened = PlannedData(TileStore(where / "store.zarr"), Split.read(where / "split.json"))
        done = []
        for task_name, document, path in json.loads((results_folder / "tasks.json").read_text()):
            Path(path).mkdir(exist_ok=True)
            done.append(TASKS[task_name](Trial.of_document(document), opened, Path(path), world))
        torch.save(done, results_folder / f"rank{world.rank}.pt")

    run_processes(n_processes, run_tasks)
