"""Training steps: reproducible in any process, with the right labels for their tiles, and split among processes."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.loading.steps import DIAGNOSED, MASKS, SEED, STREAMS, Bank, dataset_of, digest, digests, view_of
from tests.processes import output_of
from tests.properties import examples
from tissuebench.datasets.loading.datamodule import StepDataset
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.errors import ConfigError


def test_a_step_is_a_pure_function_of_seed_and_step(tiny_data, dataset):
    forward = [digests(dataset[step]) for step in range(6)]
    fresh = dataset_of(tiny_data.store, tiny_data.split)
    for step in (5, 0, 3, 3, 1, 4, 2):
        np.random.seed(step)  # noqa: NPY002
        torch.manual_seed(step)
        assert digests(fresh[step]) == forward[step]
    assert len({step["annotated"] for step in forward}) == 6
    assert digests(dataset_of(tiny_data.store, tiny_data.split, seed=13)[0]) != forward[0]


@pytest.mark.parametrize("hash_seed", ["0", "321"])
def test_a_step_is_the_same_in_another_process(tiny_data, dataset, hash_seed):
    folder = str(tiny_data.home / "data" / "tiny")
    found = output_of("tests.datasets.loading.steps", folder, PYTHONHASHSEED=hash_seed)
    assert found.split() == [value for step in (4, 1) for value in digests(dataset[step]).values()]


def test_the_annotated_stream_is_the_same_whoever_stands_beside_it(tiny_data, dataset):
    """The paired design: methods that differ in their other streams see the same annotated tiles."""
    alone = dataset_of(tiny_data.store, tiny_data.split, {"annotated": MASKS})
    last = dataset_of(tiny_data.store, tiny_data.split, {"diagnosed": DIAGNOSED, "annotated": MASKS})
    larger = {"diagnosed": Stream(Supervision.DIAGNOSIS, 9), "annotated": MASKS}
    masks_only = StepDataset(
        tiny_data.store,
        view_of(tiny_data.store, tiny_data.split, kinds=frozenset({Supervision.MASKS})),
        {"annotated": MASKS},
        SEED,
        None,
    )
    for step in range(5):
        expected = digest(dataset[step]["annotated"])
        others = (alone, last, dataset_of(tiny_data.store, tiny_data.split, larger), masks_only)
        assert {digest(other[step]["annotated"]) for other in others} == {expected}


def test_what_each_stream_carries(dataset):
    batch = dataset[0]
    carried = {
        name: {label for label in ("masks", "tags", "excluded") if getattr(stream, label) is not None}
        for name, stream in batch.items()
    }
    assert carried == {"annotated": {"masks"}, "diagnosed": {"excluded"}, "tagged": {"tags"}, "any": set()}
    annotated, diagnosed, tagged = batch["annotated"], batch["diagnosed"], batch["tagged"]
    assert (annotated.images.shape, annotated.images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert (annotated.masks.shape, annotated.masks.dtype) == ((4, 32, 32), torch.uint8)
    assert (diagnosed.excluded.shape, diagnosed.excluded.dtype) == ((3, 4), torch.bool)
    assert (tagged.tags.shape, tagged.tags.dtype) == ((2, 4), torch.bool)


def test_labels_belong_to_their_tiles(tiny_data, dataset, where):
    labels = tiny_data.store.withheld
    for step in range(8):
        item = dataset[step]
        for tile, mask in zip(where(item["annotated"].images), item["annotated"].masks, strict=True):
            assert np.array_equal(labels.mask(tile.slide_id, tile.y, tile.x, 32, 32), mask.numpy())
        for tile, excluded in zip(where(item["diagnosed"].images), item["diagnosed"].excluded, strict=True):
            own = labels.diagnosis(tile.slide_id)[0]
            assert excluded.tolist() == [False, False, own == "B", own == "A"]
        for tile, tags in zip(where(item["tagged"].images), item["tagged"].tags, strict=True):
            present = set(np.unique(labels.mask(tile.slide_id, tile.y, tile.x, 32, 32)).tolist())
            assert set(np.flatnonzero(tags).tolist()) == present


def test_only_bought_tiles_are_in_the_annotated_stream(tiny_data, dataset, view, where):
    bought = {slide.slide_id for slide in view.mask_slides}
    train = {slide.slide_id for slide in view.slides}
    seen = defaultdict(set)
    for step in range(150):
        for name, batch in dataset[step].items():
            seen[name] |= {tile.slide_id for tile in where(batch.images)}
    assert seen["annotated"] == seen["tagged"] == bought
    assert seen["diagnosed"] == seen["any"] == train
    assert len(bought) == 3 < len(train) == 7


@examples(30)
@given(st.data())
def test_the_parts_of_the_processes_are_the_whole_in_order(dataset, data):
    """And what each process does to its part is what one process does to all of it."""
    world_size, step = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 50))
    parts = [dataset.shard(rank, world_size)[step] for rank in range(world_size)]
    for name, whole in dataset[step].items():
        mine = [part[name] for part in parts]
        assert {part.total for part in mine} == {STREAMS[name].batch_size} == {whole.total}
        assert [part.offset for part in mine] == [r * whole.total // world_size for r in range(world_size)]
        assert all(len(part.images) for part in mine)
        for label in ("images", "masks", "tags", "excluded"):
            if getattr(whole, label) is not None:
                joined = torch.cat([getattr(part, label) for part in mine])
                assert torch.equal(joined, getattr(whole, label))


def test_cached_features_are_shared_out_too(tiny_data):
    banked = StepDataset(tiny_data.store, view_of(tiny_data.store, tiny_data.split), STREAMS, SEED, Bank())
    whole, parts = banked[3]["annotated"], [banked.shard(rank, 2)[3]["annotated"] for rank in range(2)]
    assert torch.equal(torch.cat([part.features[0] for part in parts]), whole.features[0])
    assert torch.equal(torch.cat([part.masks for part in parts]), whole.masks)


def test_more_processes_than_tiles_are_refused(dataset):
    with pytest.raises(
        ConfigError, match=r"^stream 'tagged': a batch size of 2 cannot be shared by 3 processes; [^\n]*$"
    ):
        dataset.shard(0, 3)
    assert dataset.shard(0, 2)[0]["tagged"].offset == 0


def test_tags_of_all_tiles_of_a_stream(tiny_data, dataset, where):
    tiles = dataset.tiles("tagged")
    assert tiles == sorted(set(tiles), key=lambda tile: (tile.slide_id, tile.y, tile.x))
    found = dataset.tags("tagged")
    assert (found.shape, found.dtype) == ((len(tiles), 4), torch.bool)
    known = dict(zip(tiles, found, strict=True))
    for step in range(5):
        drawn_there = dataset[step]["tagged"]
        for tile, tags in zip(where(drawn_there.images), drawn_there.tags, strict=True):
            assert torch.equal(known[tile], tags)
    assert dataset.all_tags().keys() == {"tagged"}
    assert dataset_of(tiny_data.store, tiny_data.split, {"annotated": MASKS}).all_tags() == {}


def test_tiles_to_annotate_come_with_their_pixels_where_features_stand_in(tiny_data, where):
    view = view_of(tiny_data.store, tiny_data.split)
    banked = StepDataset(tiny_data.store, view, STREAMS, SEED, Bank())
    tiles = banked.tiles("tagged")[3:7]
    batch = banked.load("tagged", tiles)
    assert where(batch.images) == tiles
    assert batch.inputs is batch.features
    assert batch.features[0][:, :, 0, 0].tolist() == [[tile.y, tile.x, 0] for tile in tiles]  # as they are
    assert torch.equal(batch.tags, torch.from_numpy(view.tags_of(tiles)))
    plain = dataset_of(tiny_data.store, tiny_data.split).load("tagged", tiles)
    assert torch.equal(plain.images, batch.images)
    assert plain.inputs is plain.images
    assert banked[0]["tagged"].images is None
