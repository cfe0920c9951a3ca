"""No step of any method makes the host wait for the GPU: it must run ahead, or the GPU idles between kernels."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from tests.pretended_gpu import GPU, Pretended, move, waits_of
from tissuebench.datasets.loading.augment import augment
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.types import TrainingBatch
from tissuebench.methods.api import all_methods
from tissuebench.methods.api.contract import make_batch, make_method

SHIPPED = {name: kind for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench.")}
NOW = {"strong": 0.3, "weak": 0.3, "ramp": 0, "warm_up": 0, "attention": None, "width": 8, "classifier_width": 8}


def made(name):
    fields = SHIPPED[name].Config.model_fields
    return make_method(name, settings={key: value for key, value in NOW.items() if key in fields})


def stages():
    for name in SHIPPED:
        method = made(name)
        yield name, "last"
        for stage in type(method).stages(method.config, method.task.training):
            yield name, stage.name


def stage_of(name, which):
    method = made(name)
    if which == "last":
        return method
    found = {stage.name: stage for stage in type(method).stages(method.config, method.task.training)}[which]
    return found.module(replace(method.task, training=found.training), found.config)


def augmented(tiles):
    """Return the batch as the data module would, with everything that augmentation can do."""
    images, geometry = augment(tiles.images, 0, AugmentSettings(scale=0.2, blur=1.0, stain=0.1))
    labels = {
        name: geometry.apply_to_labels(getattr(tiles, name)).long()
        for name in ("masks", "pseudo_masks")
        if getattr(tiles, name) is not None
    }
    assert all(isinstance(each, Pretended) for each in (images, *labels.values()))
    return replace(tiles, images=images, **labels)


@pytest.mark.parametrize("name, which", list(stages()))
def test_a_step_waits_for_nothing(name, which, monkeypatch, deep_stack):
    waits = deep_stack.submit(waits_of_steps, name, which, monkeypatch).result()
    assert not waits, "\n".join(sorted(set(waits)))


@pytest.fixture
def deep_stack():
    """A thread in which the graph of a deep network, whose tensors are objects of Python, can be freed."""
    before = threading.stack_size(1 << 29)
    with ThreadPoolExecutor(1) as thread:
        yield thread
    threading.stack_size(before)


def waits_of_steps(name, which, monkeypatch):
    """Return what would make the host wait in two steps, from augmentation to the update of an average."""
    stage = move(stage_of(name, which)).train()
    with waits_of(monkeypatch) as waits:
        batch = make_batch(stage).to(GPU, non_blocking=True)
        batch = TrainingBatch((name, augmented(tiles)) for name, tiles in batch.items())
        for _ in range(2):
            torch.manual_seed(0)
            loss = stage.training_step(batch, 0)
            assert isinstance(loss, Pretended)
            loss.backward()
            if getattr(stage, "averaged", None) is not None:
                average, module = stage.averaged
                average.update_parameters(module)
            stage.zero_grad()
    return list(waits)


def test_waiting_is_noticed(monkeypatch):
    with waits_of(monkeypatch) as waits:
        here = torch.arange(4.0).to(GPU, non_blocking=True)
        assert not waits
        float(here.sum())
        here[here > 1]
        torch.arange(3.0).to(GPU)
        here.tolist()
        assert len(waits) == 4
        with pytest.raises(AssertionError, match="not on the GPU"):
            here + torch.arange(4.0)
