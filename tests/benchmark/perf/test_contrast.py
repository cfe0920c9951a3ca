"""The benchmark of the contrast: what it times is the contrast of the method, down to the maps."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.perf import contrast

NAMES = {"supervised", "vectors", "loss"}


@pytest.fixture(scope="module")
def method():
    return contrast.make_method(tile_px=64, rep_stride=4)


def test_each_round_times_every_way(method):
    rates = contrast.measure(method, rounds=3)
    assert set(rates) == NAMES
    assert all(rate.shape == (3,) and np.isfinite(rate).all() and (rate > 0).all() for rate in rates.values())


def test_the_contrast_is_that_of_the_published_sizes_and_reaches_the_maps(method, monkeypatch):
    seen = []
    contrast_of = AnatomicalContrast.contrast_of

    def watched(self, keys, maps, labels, probabilities, places=None):
        loss = contrast_of(self, keys, maps, labels, probabilities)
        (gradient,) = torch.autograd.grad(loss, maps, retain_graph=True)
        seen.append((tuple(keys.shape), tuple(maps.shape), bool((gradient != 0).any()), float(loss.detach())))
        return loss

    monkeypatch.setattr(AnatomicalContrast, "contrast_of", watched)
    contrast.measure(method, rounds=1)
    tiles, cells = contrast.ANNOTATED + contrast.OTHERS, 16
    assert [each[:3] for each in seen] == [((tiles * cells**2, 512), (tiles, 496, cells, cells), True)] * 2
    assert all(loss > 0 for *_, loss in seen)
    assert (method.config.queries, method.config.negatives) == (256, 512)


def test_what_is_printed(capsys):
    out = io.StringIO()
    lines = contrast.run(Console(file=out), as_json=True, rounds=1, rep_stride=8, tile_px=64)
    capsys.readouterr()
    told = json.loads(out.getvalue())
    assert [line["name"] for line in told] == [line.name for line in lines]
    judged = [line for line in lines if line.goal is not None]
    assert [line.name.split(",")[1] for line in judged] == [" both together"]  # a part of the cost is not judged
    assert judged[0].at_most and judged[0].goal == 0.5
    values = {line.name: line.value for line in lines}
    loss, vectors, both = (value for name, value in values.items() if "supervised step" in name)
    assert both == pytest.approx(loss + vectors, rel=1e-6)
    assert values["MiB: vectors"] == 8 * 8**2 * 512 * 4 / 2**20
