"""The benchmark of scoring: both kinds of scoring see the same trial. No test here has a stopwatch."""

from __future__ import annotations

from tests.benchmark.features.shards import FROZEN
from tissuebench.methods.networks.encoder import ImageEncoder
from tissuebench.perf.scoring import measure
from tissuebench.runtime.machine import detect_machine


def test_both_kinds_count_alike_and_one_runs_the_encoder(bench, display, tmp_path, monkeypatch):
    plan = bench.plan(*FROZEN, "seeds=[0]", "budgets=['masks:2p']", "training.steps=2")
    (trial,) = bench.trials(plan, "complementary")
    encoded, real = [], ImageEncoder.encode

    def encode(own, images, *args):
        if not images.is_meta:
            encoded.append(len(images))
        return real(own, images, *args)

    monkeypatch.setattr(ImageEncoder, "encode", encode)
    machine = detect_machine(trial.network.encoder_mode)
    fast, share, seconds, alike = measure(trial, bench.data, machine, tmp_path, display, n_rounds=2)
    assert sum(encoded) == 7 * 6 * 4 + (1 + 2) * 3 * 12  # tiles; windows once for all, and in each round from images
    assert fast.value > 0 and fast.goal == 5
    assert share.value > 0 and seconds.value > 0
    assert alike.value == 1.0 and alike.holds
