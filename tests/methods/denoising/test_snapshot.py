"""Looks at denoising pre-training: validation loss, sample pictures, and maps for a linear probe."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.methods.denoising.denoisers import NETWORKS, PX, TINY, Oracle, Remembering, made, pictures, step_on
from tissuebench.methods.losses import pooling


def shown(stage, images, seed=0):
    with torch.no_grad():
        return stage.eval().snapshot(images, torch.Generator().manual_seed(seed))


def generators():
    """The states of all global ones."""
    of_numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one is meant
    return random.getstate(), of_numpy, torch.get_rng_state().tolist()


def bytes_of(count=4):
    return torch.randint(0, 256, (count, 3, PX, PX), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@NETWORKS
def test_the_same_images_are_shown_the_same_way_and_no_global_generator_is_drawn_from(network, monkeypatch):
    monkeypatch.setattr("tissuebench.methods.denoising.pretraining._SAMPLING_STEPS", 2)
    stage, images = made(**network), bytes_of()
    before = generators()
    one = shown(stage, images)
    assert generators() == before
    torch.rand(17)
    other = shown(stage, images)
    assert one.figures == other.figures
    assert one.figures.keys() == {"validation_loss"}
    assert list(one.columns) == list(other.columns)
    for title, column in one.columns.items():
        assert torch.equal(column, other.columns[title])
        assert column.shape == images.shape
        assert 0 <= column.min() <= column.max() <= 1
    torch.testing.assert_close(one.columns["image"], images / 255)
    assert one.figures != shown(stage, images, seed=1).figures
    with torch.no_grad():
        next(stage.network.parameters()).add_(0.1)
    assert one.figures != shown(stage, images).figures


def test_who_knows_the_noise_shows_the_images(monkeypatch):
    stage, images = made(**TINY), bytes_of()
    stage.network = Oracle(images.float() / 127.5 - 1)
    found = shown(stage, images)
    assert found.figures["validation_loss"] == pytest.approx(0, abs=1e-6)
    told = [title for title in found.columns if "denoised" in title]
    assert len(told) == 3
    for title in ("image", "sample", *told):
        torch.testing.assert_close(found.columns[title], images / 255, rtol=0, atol=1e-3)
    noises = [(found.columns[title.removesuffix(", denoised")] - images / 255).abs().mean() for title in told]
    assert 0.01 < noises[0] < noises[1] < noises[2]
    assert {int(step) for step in stage.network.asked[0]} == {0, 333, 666, 999}


def test_the_average_is_what_is_shown():
    stage, images = made(**TINY, average=0.9), bytes_of()
    stage.average.module, stage.network = Oracle(images.float() / 127.5 - 1), Remembering()
    assert shown(stage, images).figures["validation_loss"] == pytest.approx(0, abs=1e-6)
    assert not stage.network.seen


@NETWORKS
def test_one_process_looks_alone(network, monkeypatch):
    """The others are not there: who waited for them would wait forever."""
    monkeypatch.setattr("tissuebench.methods.denoising.pretraining._SAMPLING_STEPS", 1)
    stage, images = made(**network), bytes_of()
    expected = shown(stage, images).figures
    monkeypatch.setattr(pooling.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(pooling.distributed, "get_world_size", lambda: 2)

    def asked(*_):
        raise AssertionError("another process was asked")

    monkeypatch.setattr(pooling.distributed, "all_reduce", asked)
    with pytest.raises(AssertionError, match="another process"):
        step_on(stage, pictures())
    assert shown(stage, images).figures == expected


@pytest.mark.parametrize(
    ("network", "channels"), [({}, (32,)), (TINY, (16, 8, 8)), ({**TINY, "multipliers": (1, 2, 4)}, (32, 16, 8, 8))]
)
def test_maps_are_those_of_the_decoder_at_a_step_of_little_noise(network, channels):
    stage, images, t = made(**network).eval(), bytes_of(2), torch.tensor([100, 100])
    if not network:
        for shift in stage.network.shared.shifts:
            nn.init.normal_(shift.weight, std=0.5)
    with torch.no_grad():
        maps = stage.maps(images)
        torch.testing.assert_close(stage.maps(images[1:]), maps[1:], rtol=1e-4, atol=1e-5)
        if not network:
            shared = stage.network.shared
            expected = shared.decoded(shared.told(shared.encode(images), t))
            assert maps.shape == (2, *channels, 8, 8)
            torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)
            return
        levels = stage.network.features(images.float() / 127.5 - 1, t)
        assert maps.shape == (2, sum(channels), 16, 16)
        for level, found in zip(levels, maps.split(channels, dim=1), strict=True):
            if level.shape[-1] == 16:
                torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-5)
            if level.shape[-1] == 32:
                torch.testing.assert_close(found, functional.avg_pool2d(level, 2), rtol=1e-4, atol=1e-5)
            if level.shape[-1] == 8:
                enlarged = functional.interpolate(level, size=(16, 16), mode="bilinear")
                torch.testing.assert_close(found, enlarged, rtol=1e-4, atol=1e-5)
