"""Shuffled streams: each tile once in an epoch, whoever asks, and however often they are interrupted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.loading.steps import ALL_KINDS, SEED, Bank, digest, view_of
from tests.properties import examples
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import StepDataset, TileDataModule
from tissuebench.datasets.loading.sampling import n_tiles, shuffled_places, stream_tree
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.errors import ConfigError


def steps_of(tiny_data, batch_size, supervision=Supervision.MASKS, features=None, **options):
    streams = {"s": Stream(supervision, batch_size, shuffled=True, **options)}
    return StepDataset(tiny_data.store, view_of(tiny_data.store, tiny_data.split), streams, SEED, features)


def images_of(steps, step, rank=0, world_size=1):
    return [image.numpy().tobytes() for image in steps.shard(rank, world_size)[step]["s"].images]


@given(st.integers(0, 2**62), st.integers(1, 40), st.integers(1, 50), st.integers(1, 5))
def test_over_some_epochs_each_tile_occurs_as_often_whatever_the_batch_size(seed, n, batch_size, epochs):
    n_steps = -(-epochs * n // batch_size)
    drawn = [shuffled_places(seed, "s", n, step * batch_size, (step + 1) * batch_size) for step in range(n_steps)]
    places = np.concatenate(drawn)[: epochs * n]
    assert all(len(each) == batch_size for each in drawn)
    assert Counter(places.tolist()) == dict.fromkeys(range(n), epochs)
    assert all(sorted(epoch) == [*range(n)] for epoch in places.reshape(epochs, n).tolist())


@given(st.integers(0, 2**62), st.integers(1, 40), st.integers(0, 200), st.integers(0, 90))
def test_any_part_is_that_part_of_the_whole_sequence(seed, n, start, length):
    whole = shuffled_places(seed, "s", n, 0, start + length + 1)
    assert np.array_equal(shuffled_places(seed, "s", n, start, start + length + 1), whole[start:])


def test_orders_differ_by_epoch_stream_and_seed():
    first = shuffled_places(0, "s", 40, 0, 40).tolist()
    others = [(0, "s", 40, 40, 80), (0, "other", 40, 0, 40), (1, "s", 40, 0, 40)]
    assert all(shuffled_places(*other).tolist() != first for other in others)


def test_all_orders_of_an_epoch_are_equally_likely():
    counts = Counter(tuple(shuffled_places(seed, "s", 3, 0, 3).tolist()) for seed in range(3000))
    assert len(counts) == 6
    assert all(420 < count < 580 for count in counts.values())


@pytest.mark.parametrize("batch_size", [1, 4, 7, 25])
def test_each_bought_tile_is_shown_once_in_an_epoch(tiny_data, batch_size):
    """The budget buys 18 tiles; noise makes the pixels of each its own."""
    steps = steps_of(tiny_data, batch_size)
    images = [image for step in range(36) for image in images_of(steps, step)][:36]
    n = len(steps.tiles("s"))
    assert n == 18 == n_tiles(Supervision.MASKS, tiny_data.store, view_of(tiny_data.store, tiny_data.split))
    assert len(set(images[:n])) == n
    assert Counter(images) == dict.fromkeys(images[:n], 2)


@examples(20)
@given(st.integers(2, 9), st.integers(0, 30))
def test_two_processes_draw_the_halves_of_one(tiny_data, batch_size, step):
    steps = steps_of(tiny_data, batch_size)
    assert images_of(steps, step, 0, 2) + images_of(steps, step, 1, 2) == images_of(steps, step)


def test_a_fit_resumed_in_the_middle_of_an_epoch_sees_the_rest_of_it(tiny_data):
    view = view_of(tiny_data.store, tiny_data.split)

    def module():
        streams = {"s": Stream(Supervision.MASKS, 5, shuffled=True)}
        return TileDataModule(tiny_data.store, view, streams, SEED, 8, AugmentSettings())

    whole = [digest(batch["s"]) for batch in module().train_dataloader()]
    resumed = module()
    resumed.load_state_dict({"step": 2})
    assert [digest(batch["s"]) for batch in resumed.train_dataloader()] == whole[2:]
    assert len(set(whole)) == 8


def test_balance_has_no_effect_where_tiles_are_shuffled(tiny_data):
    for kind in Supervision:
        balanced, plain = (steps_of(tiny_data, 6, kind, balanced=each) for each in (True, False))
        assert [digest(balanced[step]["s"]) for step in range(4)] == [digest(plain[step]["s"]) for step in range(4)]


def test_variants_of_cached_features_are_drawn_as_ever(tiny_data):
    steps = steps_of(tiny_data, 18, features=Bank())
    marks = steps[0]["s"].features[0][:, 2, 0, 0]
    assert set(marks.tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert not torch.equal(marks, steps[1]["s"].features[0][:, 2, 0, 0])


def test_number_of_tiles_that_an_unbalanced_stream_can_draw(tiny_data, view):
    for kind in Supervision:
        tree = stream_tree("s", Stream(kind, 1, balanced=False), tiny_data.store, view, 32, 0)
        assert n_tiles(kind, tiny_data.store, view) == len(tree) == len(set(tree))
    budget = draw_budget(tiny_data.store, tiny_data.split, "tags:2p", 0)
    without_masks = LabelView.for_training(tiny_data.store, tiny_data.split, budget, ALL_KINDS)
    with pytest.raises(ConfigError, match=r"\(masks\) has no tile in this budget"):
        n_tiles(Supervision.MASKS, tiny_data.store, without_masks)
