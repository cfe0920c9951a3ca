"""The data module: resuming, sharding and worker processes of its loader, and augmentation on the device."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.loading.steps import SEED, STREAMS, Bank, digest, digests, module_of, view_of
from tissuebench.datasets.loading.augment import orient_each
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import LoaderSettings, StepDataset, StepLoader, StepSampler
from tissuebench.errors import ConfigError


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_resumed_fit_goes_on_with_the_next_step(done, steps):
    whole, rest = StepSampler(0, steps), StepSampler(done, steps)
    assert [*whole][done:] == [*rest]
    assert len(rest) == len([*rest])


class _Trainer:
    def __init__(self, global_step, global_rank=0, world_size=1):
        self.global_step, self.global_rank, self.world_size = global_step, global_rank, world_size


@pytest.mark.parametrize("done", [0, 3])
def test_the_loader_gives_the_steps_that_are_left(tiny_data, dataset, done):
    module = module_of(tiny_data, AugmentSettings())
    module.trainer = _Trainer(done) if done else None
    batches = list(module.train_dataloader())
    assert [digests(batch) for batch in batches] == [digests(dataset[step]) for step in range(done, 5)]


@pytest.mark.parametrize("start_method", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver", "fork"])
def test_worker_processes_change_nothing_and_what_they_prepared_is_not_over(tiny_data, dataset, start_method):
    settings = LoaderSettings(num_workers=2, start_method=start_method)
    loader = module_of(tiny_data, AugmentSettings(), steps=6, loader=settings).train_dataloader()
    for step, batch in zip(range(3), loader, strict=False):
        assert digests(batch) == digests(dataset[step])
    # zip asked for steps 0 to 2; the workers have prepared more
    assert loader.state_dict() == {"step": 3}
    again = module_of(tiny_data, AugmentSettings(), steps=6, loader=settings).train_dataloader()
    again.load_state_dict(loader.state_dict())
    assert [digests(batch) for batch in again] == [digests(dataset[step]) for step in range(3, 6)]
    assert again.state_dict() == {"step": 6}


@given(st.data())
def test_a_loader_goes_on_where_its_state_says(data):
    """Interrupted any number of times, it hands out each step once, in order, and is as long as before."""

    class Steps:
        def __getitem__(self, step):
            return step

    steps = data.draw(st.integers(0, 30))
    seen, state = [], {"step": 0}
    while len(seen) < steps:
        loader = StepLoader(Steps(), 0, steps, LoaderSettings())
        loader.load_state_dict(json.loads(json.dumps(state)))
        assert len(loader) == steps
        for _, step in zip(range(data.draw(st.integers(1, steps))), loader, strict=False):
            seen.append(step)
        state = loader.state_dict()
    assert seen == list(range(steps))


def test_the_step_of_the_trainer_is_the_one_truth(tiny_data):
    """Batches that Lightning holds back are not over before the optimiser's step is."""
    module = module_of(tiny_data, AugmentSettings())
    module.trainer = _Trainer(1)
    loader = module.train_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict() == module.state_dict() == {"step": 1}
    module.trainer.global_step = 3
    assert loader.state_dict() == module.state_dict() == {"step": 3}
    assert len(loader) == 5
    fresh = module_of(tiny_data, AugmentSettings())
    fresh.load_state_dict(module.state_dict())
    assert fresh.state_dict() == {"step": 3}
    assert next(iter(fresh.train_dataloader()))["annotated"].step == 3


def test_a_process_gets_its_part_from_the_trainer(tiny_data, dataset):
    module = module_of(tiny_data, AugmentSettings())
    module.trainer = _Trainer(2, global_rank=1, world_size=2)
    assert digests(next(iter(module.train_dataloader()))) == digests(dataset.shard(1, 2)[2])
    module.trainer = _Trainer(0, world_size=3)
    with pytest.raises(ConfigError, match="cannot be shared by 3 processes"):
        module.train_dataloader()


def test_masks_turn_with_their_images(tiny_data, dataset):
    """Colours are far apart, so the class of each pixel can be read off the augmented image itself."""
    module = module_of(tiny_data, AugmentSettings(color=0, hue=0))
    colours = torch.tensor(tiny_data.store.class_map.colors).float() / 255
    turned_ones = 0
    for step in range(6):
        batch = module.on_after_batch_transfer(dataset[step], 0)["annotated"]
        distance = (batch.images[:, None] - colours[None, :, :, None, None]).square().sum(dim=2)
        assert torch.equal(distance.argmin(dim=1), batch.masks)
        turned_ones += not torch.equal(batch.masks, dataset[step]["annotated"].masks)
    assert turned_ones > 0


def test_augmentation_depends_on_seed_stream_and_step_alone(tiny_data, dataset):
    module = module_of(tiny_data, AugmentSettings())
    first = {step: digests(module.on_after_batch_transfer(dataset[step], 0)) for step in (0, 1)}
    torch.manual_seed(4)
    assert {step: digests(module.on_after_batch_transfer(dataset[step], 0)) for step in (1, 0)} == first
    moved = replace(dataset[0]["annotated"], step=9)
    assert digest(replace(module._augmented("annotated", moved), step=0)) != first[0]["annotated"]
    parts = [dataset.shard(rank, 2)[0]["annotated"] for rank in range(2)]
    images = torch.cat([module._augmented("annotated", part).images for part in parts])
    assert torch.equal(images, module._augmented("annotated", dataset[0]["annotated"]).images)
    assert digest(module._augmented("diagnosed", dataset[0]["annotated"])) != first[0]["annotated"]
    assert not torch.equal(dataset[0]["any"].images.float() / 255, module._augmented("any", dataset[0]["any"]).images)


def test_cached_features_stand_in_for_images_and_masks_turn_with_them(tiny_data, dataset, where):
    banked = StepDataset(tiny_data.store, view_of(tiny_data.store, tiny_data.split), STREAMS, SEED, Bank())
    variants_seen = set()
    for step in range(6):
        batch, plain = banked[step]["annotated"], dataset[step]["annotated"]
        assert batch.images is None
        marks = batch.features[0][:, :, 0, 0].long()
        tiles = where(plain.images)
        assert marks[:, :2].tolist() == [[tile.y, tile.x] for tile in tiles]  # the same tiles as from images
        assert torch.equal(batch.masks, orient_each(plain.masks, marks[:, 2]))
        variants_seen |= set(marks[:, 2].tolist())
    assert variants_seen == {0, 1, 2, 3}
    module = module_of(tiny_data, AugmentSettings(), features=Bank())
    on_device = module._augmented("annotated", batch)
    assert on_device.features is batch.features
    assert on_device.masks.dtype == torch.int64
    assert torch.equal(on_device.masks, batch.masks)
