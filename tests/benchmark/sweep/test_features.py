"""Features of a frozen encoder: what is cached is what would be computed, under a key that leaves nothing out."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.loading.augment import augment
from tissuebench.errors import ConfigError
from tissuebench.methods.networks import build_segmenter
from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep import run_task as tasks
from tissuebench.training import feature_cache as features
from tissuebench.training.feature_cache import FeatureBank, compute_features, plan_features, training_tiles

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
CPU = torch.device("cpu")


class OnTheFly:
    """A ``FeatureSource`` that caches nothing: the same augmented images through the encoder, rounded as in a cache."""

    def __init__(self, plan, store, split):
        self.n_variants = plan.network.feature_variants
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


def bank_of(plan, data, folder, monkeypatch=None, kill_after=None):
    """All shards in ``folder``; with ``kill_after`` the work is cut off after so many reports, and taken up again."""
    shards = plan_features(plan.network, plan.augmentation, data.store, data.split)
    folders = []

    class Killed(BaseException):
        pass

    for shard in shards:
        folders.append(folder / shard.key)
        folders[-1].mkdir(parents=True)
        reports = []

        def report(done, total, reports=reports):
            reports.append(done)
            if kill_after is not None and len(reports) == kill_after:
                raise Killed

        for attempt in range(2):
            try:
                given = (shard, plan.network, plan.augmentation, data.store, data.split, CPU)
                compute_features(folders[-1], *given, report)
            except Killed:
                assert attempt == 0
                with (folders[-1] / "maps.f16").open("ab") as file:
                    file.write(b"half a record")  # what a kill in the middle of writing leaves
                continue
            break
        assert reports == sorted(set(reports))  # no batch twice
        assert reports[-1] == shard.stop - shard.start
    return shards, folders


@pytest.mark.parametrize("tile_px", [32, 56])
def test_what_is_cached_is_what_the_encoder_gives(bench, tmp_path, tile_px):
    bench, plan = bench if tile_px == 32 else bench.sized(tile_px), bench.plan(*FROZEN)
    store, split = bench.data.store, bench.data.split
    _, folders = bank_of(plan, bench.data, tmp_path)
    tiles = training_tiles(store, split)
    bank, fresh = FeatureBank(folders, tiles), OnTheFly(plan, store, split)
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
    _, whole = bank_of(plan, bench.data, tmp_path / "whole")
    _, resumed = bank_of(plan, bench.data, tmp_path / "resumed", kill_after=kill_after)
    for one, other in zip(whole, resumed, strict=True):
        for name in ("maps.f16", "orientations.u8", "index.json"):
            assert (one / name).read_bytes() == (other / name).read_bytes()


def test_shards_together_are_one_bank(bench, tmp_path, monkeypatch):
    plan = bench.plan(*FROZEN)
    tiles = training_tiles(bench.data.store, bench.data.split)
    (one_shard,), folder = bank_of(plan, bench.data, tmp_path / "one")
    monkeypatch.setattr(features, "_MIN_SHARD_TILES", 16)
    shards, folders = bank_of(plan, bench.data, tmp_path / "many")
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 16), (16, 32), (32, 42)]
    assert one_shard.key not in {shard.key for shard in shards}
    every = [(tile, variant) for tile in tiles for variant in range(4)]
    for some in np.array_split(np.random.default_rng(0).permutation(len(every)), 7):
        chosen, variants = zip(*(every[index] for index in some), strict=True)
        (one, turned), (other, also) = (FeatureBank(f, tiles).read(chosen, variants) for f in (folder, folders))
        assert torch.equal(turned, also)
        assert all(torch.equal(level, same) for level, same in zip(one, other, strict=True))


def test_a_thousand_slides_make_no_more_than_64_shards(bench, monkeypatch):
    tiles = training_tiles(bench.data.store, bench.data.split)
    monkeypatch.setattr(features, "training_tiles", lambda store, split: tiles * 2000)
    plan = bench.plan(*FROZEN)
    shards = plan_features(plan.network, plan.augmentation, bench.data.store, bench.data.split)
    assert len(shards) <= 64
    assert [shard.start for shard in shards[1:]] == [shard.stop for shard in shards[:-1]]
    assert shards[-1].stop == len(tiles) * 2000
    assert all(shard.start % 16 == 0 for shard in shards)


def test_other_weights_are_another_bank_and_are_refused_where_they_differ(bench, tmp_path, monkeypatch):
    plan = bench.plan(*FROZEN)
    planned = plan_features(plan.network, plan.augmentation, bench.data.store, bench.data.split)
    folder = tmp_path / "shard"
    folder.mkdir()
    real = features.build_segmenter

    def changed(settings, n_classes):
        network = real(settings, n_classes)
        with torch.no_grad():
            next(network.encoder.parameters()).mul_(1 + 1e-6)
        return network

    monkeypatch.setattr(features, "build_segmenter", changed)
    others = plan_features(plan.network, plan.augmentation, bench.data.store, bench.data.split)
    assert {shard.key for shard in planned}.isdisjoint(shard.key for shard in others)
    given = (plan.network, plan.augmentation, bench.data.store, bench.data.split, CPU, lambda *_: None)
    with pytest.raises(ConfigError, match="has different weights here"):
        compute_features(folder, planned[0], *given)
    assert not list(folder.iterdir())


def test_a_trial_on_cached_features_scores_as_one_on_features_computed_on_the_fly(bench, tmp_path, monkeypatch):
    plan = bench.plan(*FROZEN, "seeds=[0]", "budgets=['masks:3p']", "training.steps=40", "training.batch_size=4")
    trials = bench.trials(plan, "supervised", "complementary")
    bench.run(trials)
    elsewhere = bench.elsewhere(tmp_path / "fly")
    monkeypatch.setattr(tasks, "_bank", lambda job, data: OnTheFly(plan, data.store, data.split))
    bench.run(trials, elsewhere)
    for trial in trials:
        one, other = (ResultStore(results_folder(home)).load([trial.id])[0] for home in (bench.home, elsewhere))
        assert np.array_equal(one.counts, other.counts)
        assert miou(one.counts.sum(axis=0)) > 0.2


def test_an_old_bank_is_never_read_under_a_changed_key(bench):
    trials = bench.trials(bench.plan(*FROZEN, "seeds=[0]", "budgets=['masks:2p']"), "supervised")
    bench.run(trials)
    (shard,) = (bench.home / "runs" / "stages").iterdir()
    maps = shard / "maps.f16"
    maps.write_bytes(bytes(maps.stat().st_size))  # whoever reads this sees nothing but zeros
    changed = bench.trials(
        bench.plan(*FROZEN, "seeds=[0]", "budgets=['masks:2p']", "augmentation.color=0.1"), "supervised"
    )
    assert changed[0].id != trials[0].id
    bench.run(changed)
    assert len(list(shard.parent.iterdir())) == 2
    assert replace(changed[0], augmentation=trials[0].augmentation).id == trials[0].id


def test_only_banks_of_padded_tiles_have_another_key_than_before(bench):
    """Where nothing is padded, what was computed by earlier versions is used on."""

    def keys(some):
        plan, store, split = some.plan(*FROZEN), some.data.store, some.data.split
        return [shard.identity.keys() for shard in plan_features(plan.network, plan.augmentation, store, split)]

    assert all("padded" not in identity for identity in keys(bench))
    assert all("padded" in identity for identity in keys(bench.sized(56)))
