"""Features of a frozen encoder: what is cached is what would be computed, under a key that leaves nothing out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import timm
import torch

from tests.benchmark.features.shards import CPU, FROZEN, given_by, planned_tiles, tile_shards
from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.loading.augment import augment
from tissuebench.features import tiles as tiles_module
from tissuebench.features.records import hold_shard
from tissuebench.features.tiles import TileFeatures, needed_shards, tile_encoding, training_tiles
from tissuebench.methods.networks import build_segmenter


class OnTheFly:
    """A ``FeatureSource`` that caches nothing: the same augmented images through the encoder, rounded as in a cache."""

    def __init__(self, plan, store, split):
        self.n_variants, self.is_in_memory = plan.network.feature_variants, False
        self._plan, self._store = plan, store
        self._tiles = training_tiles(store, split)
        self._network = build_segmenter(plan.network, len(store.class_map)).eval()

    @torch.no_grad()
    def read(self, tiles, variants):
        levels, orientations = [], []
        for tile, variant in zip(tiles, variants, strict=True):
            row = self._tiles.index(tile)
            start = row // 16 * 16
            chunk = self._tiles[start : start + 16]
            images = torch.from_numpy(self._store.images(chunk, self._store.info.tile_px))
            turned = torch.zeros(len(chunk), dtype=torch.int64)
            if variant:
                seed = derive_seed("features", variant, start)
                images, geometry = augment(images, seed, self._plan.augmentation)
                turned = geometry.orientations
            encoded = self._network.encode(images)
            levels.append([level[row - start].half().float() for level in encoded])
            orientations.append(turned[row - start])
        return tuple(torch.stack(level).clone() for level in zip(*levels, strict=True)), torch.stack(orientations)


@pytest.mark.parametrize("tile_px", [32, 56])
def test_what_is_cached_is_what_the_encoder_gives(bench, tmp_path, tile_px):
    bench, plan = bench if tile_px == 32 else bench.sized(tile_px), bench.plan(*FROZEN)
    store, split = bench.data.store, bench.data.split
    _, folders = tile_shards(plan, bench.data, tmp_path)
    tiles = training_tiles(store, split)
    bank, fresh = TileFeatures(folders), OnTheFly(plan, store, split)
    chosen, variants = [tiles[i] for i in (0, 17, -1, 5)], [0, 1, 3, 2]
    (cached, turned), (computed, expected) = bank.read(chosen, variants), fresh.read(chosen, variants)
    assert torch.equal(turned, expected)
    assert turned[0] == 0
    for one, other in zip(cached, computed, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-3, atol=1e-3)
    network = build_segmenter(plan.network, 4, tile_px).eval()
    with torch.inference_mode():
        logits = network(bank.read(chosen, [0] * 4)[0])
        assert logits.shape == (4, 4, tile_px, tile_px)
        images = torch.from_numpy(store.images(chosen, tile_px))
        torch.testing.assert_close(logits, network(images), rtol=1e-2, atol=1e-2)  # float16 on the way
    copied = pickle.loads(pickle.dumps(bank)).read(chosen, variants)
    assert all(torch.equal(one, other) for one, other in zip(cached, copied[0], strict=True))


@pytest.mark.parametrize("kill_after", [1, 2])
def test_a_shard_that_was_cut_off_goes_on_and_ends_in_the_same_bytes(bench, tmp_path, kill_after):
    plan = bench.plan(*FROZEN)
    _, whole = tile_shards(plan, bench.data, tmp_path / "whole")
    _, resumed = tile_shards(plan, bench.data, tmp_path / "resumed", kill_after=kill_after)
    for one, other in zip(whole, resumed, strict=True):
        for name in ("maps.float16", "orientations.uint8", "index.json"):
            assert (one / name).read_bytes() == (other / name).read_bytes()


def test_features_in_memory_are_those_on_disk(bench, tmp_path):
    plan = bench.plan(*FROZEN, "network.feature_dtype=float32")
    (shard,), (folder,) = tile_shards(plan, bench.data, tmp_path)
    held = hold_shard(tile_encoding(shard.identity, *given_by(plan, bench.data), CPU), lambda *_: None)
    tiles = training_tiles(bench.data.store, bench.data.split)[::5]
    (one, turned), (other, also) = (TileFeatures([each]).read(tiles, [3] * len(tiles)) for each in (folder, held))
    assert {level.dtype for level in one} == {torch.float32}
    assert torch.equal(turned, also)
    assert all(torch.equal(level, same) for level, same in zip(one, other, strict=True))


def test_the_bytes_of_a_shard_are_known_before_it_is_computed(bench, tmp_path):
    for number, dtype in enumerate(("float16", "float32")):
        plan = bench.plan(*FROZEN, f"network.feature_dtype={dtype}")
        shards, folders = tile_shards(plan, bench.data, tmp_path / str(number))
        there = [path.stat().st_size for folder in folders for path in folder.iterdir() if path.suffix != ".json"]
        assert sum(shard.n_bytes for shard in shards) == sum(there)


def test_shards_together_hold_what_one_shard_does(bench, tmp_path, monkeypatch):
    plan = bench.plan(*FROZEN)
    tiles = training_tiles(bench.data.store, bench.data.split)
    (one_shard,), folder = tile_shards(plan, bench.data, tmp_path / "one")
    monkeypatch.setattr(tiles_module, "_MIN_SHARD_TILES", 16)
    shards, folders = tile_shards(plan, bench.data, tmp_path / "many")
    ranges = [(shard.identity["start"], shard.identity["stop"]) for shard in shards]
    assert ranges == [(0, 16), (16, 32), (32, 42)]
    assert one_shard.key not in {shard.key for shard in shards}
    every = [(tile, variant) for tile in tiles for variant in range(4)]
    for some in np.array_split(np.random.default_rng(0).permutation(len(every)), 7):
        chosen, variants = zip(*(every[index] for index in some), strict=True)
        (one, turned), (other, also) = (TileFeatures(f).read(chosen, variants) for f in (folder, folders))
        assert torch.equal(turned, also)
        assert all(torch.equal(level, same) for level, same in zip(one, other, strict=True))
    # Six tiles a slide: the first shard ends within the third slide.
    ids = [slide.slide_id for slide in bench.data.store.slides.values()]
    assert needed_shards(shards, ids[:2]) == shards[:1]
    assert needed_shards(shards, ids[2:3]) == shards[:2]
    assert needed_shards(shards, ids[6:7]) == shards[2:]
    some = [tile for tile in tiles if tile.slide_id == ids[2]]
    (one, _), (other, _) = (TileFeatures(f).read(some, [1] * 6) for f in (folder, folders[:2]))
    assert all(torch.equal(level, same) for level, same in zip(one, other, strict=True))


def test_a_thousand_slides_make_no_more_than_64_shards(bench, monkeypatch):
    plan, n_tiles = bench.plan(*FROZEN), len(training_tiles(bench.data.store, bench.data.split))
    monkeypatch.setattr(tiles_module, "offsets", lambda length, edge: [0] * 200)
    shards = planned_tiles(plan, bench.data)
    ranges = [(shard.identity["start"], shard.identity["stop"]) for shard in shards]
    assert len(shards) <= 64
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert ranges[-1][1] == n_tiles // 6 * 200 * 200
    assert all(start % 16 == 0 for start, _ in ranges)


def test_other_weights_are_other_shards_and_the_same_elsewhere_are_the_same(bench, tmp_path):
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    keys = {}
    for name, factor in (("one", 1.0), ("same", 1.0), ("other", 1 + 1e-6)):
        state["conv_stem.weight"] = state["conv_stem.weight"] * factor
        torch.save(state, tmp_path / f"{name}.pt")
        plan = bench.plan(*FROZEN[:2], f"network.weights={tmp_path / name}.pt")
        shards = planned_tiles(plan, bench.data)
        keys[name] = [shard.key for shard in shards]
    assert keys["one"] == keys["same"]
    assert set(keys["one"]).isdisjoint(keys["other"])
