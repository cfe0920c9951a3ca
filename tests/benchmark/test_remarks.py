"""Remarks on a plan before it runs: networks of methods' own, and data of another resolution than the encoder's."""

from __future__ import annotations

from types import SimpleNamespace

from tissuebench.bench import remarks_on
from tissuebench.methods.networks.encoder_spec import spec_of
from tissuebench.sweep.graph import Graph, Sweep


def sweep_of(plan, trials=(), **mpps):
    data = {name: SimpleNamespace(store=SimpleNamespace(info=SimpleNamespace(mpp=mpp))) for name, mpp in mpps.items()}
    return Sweep(plan, {"folder": list(trials)}, data, Graph({}))


def test_methods_that_bring_their_own_network_are_named_and_no_others(bench):
    plan = bench.plan()
    names = ("supervised", "diffusion", "diffusion_published", "mean_teacher")
    trials = bench.trials(plan, *names)
    assert {trial.method for trial in trials} >= set(names)
    assert remarks_on(sweep_of(plan, trials)) == [
        "note: network.encoder does not apply to diffusion_published: own network"
    ]
    own = bench.plan("methods.diffusion.network=paper")
    (said,) = remarks_on(sweep_of(own, bench.trials(own, *names)))
    assert "diffusion, diffusion_published" in said
    assert remarks_on(sweep_of(plan, bench.trials(plan, "supervised", "diffusion"))) == []


def test_resolution_that_is_not_the_encoders(bench):
    plan = bench.plan("network.encoder=uni", "network.weights=none")
    (trained_at,) = spec_of(plan.network).entry.mpps
    (said,) = remarks_on(sweep_of(plan, close=trained_at * 1.05, far=trained_at * 2, unknown=None))
    assert said == f"note: UNI was trained at {trained_at:g} µm per pixel, far has {trained_at * 2:g}"
