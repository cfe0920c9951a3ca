"""Augmentation settings through whole sweeps: crops, and streams with settings of their own."""

from __future__ import annotations

import pytest

from tests.benchmark.features.shards import FROZEN
from tissuebench.bench import lay_out
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.errors import ConfigError
from tissuebench.methods.supervised import Supervised

ONE = ("seeds=[0]", "budgets=['masks:2p']")


def test_a_method_trains_on_crops_and_is_scored_on_whole_slides(bench):
    plan = bench.plan(*ONE, "augmentation.crop_px=16", "augmentation.orientations=horizontal", "training.steps=2")
    (trial,) = bench.trials(plan, "supervised")
    assert len(bench.run([trial]).done) == 1


def test_a_crop_larger_than_the_tiles_is_told_before_anything_runs(bench):
    plan = bench.plan(*ONE, "augmentation.crop_px=33")
    with pytest.raises(ConfigError, match=r"^augmentation\.crop_px: a crop of 33 px is larger than a tile of 32 px"):
        lay_out(plan, ["supervised"], {"tiny": bench.data}, bench.home, store_budgets=False)


def test_a_stream_with_its_own_augmentation_refuses_cached_features_before_anything_runs(bench, monkeypatch):
    own = Stream(Supervision.MASKS, 2, augmentation={"orientations": "none"})
    monkeypatch.setattr(Supervised, "annotated_stream", lambda _: own)
    assert bench.graph(bench.trials(bench.plan(*ONE), "supervised"))
    with pytest.raises(ConfigError, match=r"^stream 'annotated' has an augmentation of its own, [^\n]*$"):
        bench.graph(bench.trials(bench.plan(*ONE, *FROZEN), "supervised"))
