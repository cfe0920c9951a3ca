"""A stage that annotates: its pseudo-masks against withheld masks, with the trial, for people, and never in training."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.benchmark.by_hand import poisoned
from tissuebench.cli.main import cli
from tissuebench.datasets.ingest.dataset import dataset_folder
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.diagnostics.pseudo_mask_quality import QUALITY
from tissuebench.diagnostics.pseudo_mask_sheet import PICTURE
from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import task_folder
from tissuebench.training.checkpoints import weights_of
from tissuebench.training.pseudo_mask_store import PseudoMasks

ONE = ("seeds=[0]", "budgets=['masks:2p']", "training.steps=3")
CAM, PRETRAIN = "cam_of_a_test", "pretrain_of_a_test"


def folders_of(graph, home):
    """The folder of each stage, by its name."""
    stages = graph.of_kind(TaskKind.STAGE)
    return {task.job.document["stage"]: task_folder(home, TaskKind.STAGE, task.key) for task in stages}


def result_of(home, trial):
    (result,) = ResultStore(results_folder(home)).load([trial.id])
    return result


def invoke(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_they_are_kept_with_the_trial_and_shown(bench, plugin, monkeypatch):
    monkeypatch.setattr(plugin.Classifier, "layers", property(lambda _: ("sure", "not [b]so[/b]")))
    (trial,), (plain,) = (bench.trials(bench.plan(*ONE), name) for name in ("staged", "supervised"))
    bench.run([trial, plain])
    folders = folders_of(bench.graph([trial]), bench.home)
    assert not (folders[PRETRAIN] / QUALITY).exists()

    masks, view = PseudoMasks(folders[CAM]), LabelView.for_evaluation(bench.data.store, bench.data.split, "train")
    tiles = sorted(masks.tiles, key=lambda tile: (tile.slide_id, tile.y, tile.x))
    truth, layers = view.masks(tiles, 32), masks.read(tiles)
    expected = np.zeros((2, 4, 4), dtype=np.int64)
    for layer in range(2):
        known = layers[:, layer] != 255
        np.add.at(expected[layer], (truth[known], layers[:, layer][known]), 1)
    quality = result_of(bench.home, trial).pseudo_masks[CAM]
    np.testing.assert_array_equal(quality.counts, expected)
    assert (quality.layers, quality.annotated, quality.n_tiles) == (("sure", "not [b]so[/b]"), truth.size, len(tiles))
    assert quality.coverage[0] == 1
    assert result_of(bench.home, plain).pseudo_masks == {}
    with Image.open(folders[CAM] / PICTURE) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 100

    told = json.loads(invoke("trial", "show", trial.id, "--home", bench.home, "--json"))["pseudo_masks"]
    assert told[CAM]["picture"] == str(folders[CAM] / PICTURE)
    assert told[CAM]["tiles"] == len(tiles)
    assert told[CAM]["layers"]["sure"] == {"miou": pytest.approx(float(miou(expected[0]))), "coverage": 1.0}
    page = invoke("trial", "show", trial.id, "--home", bench.home)
    assert f"mIoU {float(miou(expected[0])):.4f}, coverage 1.0000" in page
    assert "not [b]so[/b]" in page
    assert "diagnostic, nothing is trained on it" in page
    assert str(folders[CAM] / PICTURE) in page
    assert "pseudo" not in invoke("trial", "show", plain.id, "--home", bench.home)
    assert "diagnostic" in invoke("results", "table", "--home", bench.home)
    rows = json.loads(invoke("results", "table", "--home", bench.home, "--json"))
    (row,) = [row for row in rows if row["metric"] == "pseudo_miou/sure"]
    assert row["mean"] == pytest.approx(float(miou(expected[0])))
    written = bench.home / "leaderboard.csv"
    invoke("results", "table", "--home", bench.home, "--csv", written)
    assert "pseudo_coverage/not [b]so[/b]" in {row["metric"] for row in csv.DictReader(written.open())}


def test_a_trial_whose_stage_left_none_has_none(bench, plugin):
    """As stages of an earlier release."""
    (trial,) = bench.trials(bench.plan(*ONE), "staged")
    bench.run([trial])
    first = result_of(bench.home, trial)
    folder = folders_of(bench.graph([trial]), bench.home)[CAM]
    for name in (QUALITY, PICTURE):
        (folder / name).unlink()
    ResultStore(results_folder(bench.home)).path(trial.id).unlink()
    bench.run([trial])
    second = result_of(bench.home, trial)
    np.testing.assert_array_equal(first.counts, second.counts)
    assert (first.pseudo_masks.keys(), second.pseudo_masks) == ({CAM}, {})
    assert json.loads(invoke("trial", "show", trial.id, "--home", bench.home, "--json"))["pseudo_masks"] == {}


def assert_same_training(one, two):
    """The same bits: weights of all stages and of the trial, and pseudo-masks. Both are folders by name."""
    assert one.keys() == two.keys() == {PRETRAIN, CAM, "last"}
    for name, folder in one.items():
        ours, theirs = weights_of(folder), weights_of(two[name])
        assert len(ours) > 10
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name
    for name in ("pseudo.lz4", "pseudo.json"):
        assert (one[CAM] / name).read_bytes() == (two[CAM] / name).read_bytes()


def all_folders(bench, trial, home):
    return {**folders_of(bench.graph([trial]), home), "last": task_folder(home, TaskKind.TRIAL, trial.id)}


def test_it_changes_no_bit_of_the_training(bench, plugin, tmp_path, monkeypatch):
    (trial,) = bench.trials(bench.plan(*ONE), "staged")
    bench.run([trial])
    elsewhere = bench.elsewhere(tmp_path / "without")
    monkeypatch.setattr("tissuebench.sweep.run_task.write_quality", lambda *_: None)
    bench.run([trial], elsewhere)
    assert_same_training(all_folders(bench, trial, bench.home), all_folders(bench, trial, elsewhere))
    np.testing.assert_array_equal(result_of(bench.home, trial).counts, result_of(elsewhere, trial).counts)
    assert result_of(elsewhere, trial).pseudo_masks == {}


@pytest.fixture
def everywhere(plugin, monkeypatch):
    """The stage annotates the tiles of all training patients, whose labels it mostly did not get."""
    stages, streams = plugin.Staged.stages.__func__, plugin.Classifier.streams

    def annotating_all(cls, config, training):
        return tuple(replace(one, annotates=one.annotates and "all") for one in stages(cls, config, training))

    def annotate(self, batch):
        with torch.no_grad():
            return self.network(batch.inputs).max(dim=1).indices.to(torch.uint8)[:, None].repeat(1, 2, 1, 1)

    monkeypatch.setattr(plugin.Staged, "stages", classmethod(annotating_all))
    monkeypatch.setattr(
        plugin.Classifier, "streams", lambda self: {**streams(self), "all": Stream(Supervision.NONE, 2)}
    )
    monkeypatch.setattr(plugin.Classifier, "annotate", annotate)


def test_poisoned_withheld_labels_change_the_diagnostic_and_no_bit_of_the_training(bench, everywhere, tmp_path):
    (trial,) = bench.trials(bench.plan(*ONE), "staged")
    home = tmp_path / "poisoned"
    folder = dataset_folder(home, trial.dataset)
    folder.mkdir(parents=True)
    bad = poisoned(bench.data, trial.budget, frozenset({Supervision.MASKS, Supervision.TAGS}), folder / "store.zarr")
    bad.split.write(folder / "split.json")
    on_garbage = replace(bench, home=home, data=bad)
    same = replace(trial, store_sha256=bad.store.content_hash)
    bench.run([trial])
    on_garbage.run([same])
    assert_same_training(all_folders(bench, trial, bench.home), all_folders(on_garbage, same, home))
    one, two = result_of(bench.home, trial), result_of(home, same)
    assert one.trial_id != two.trial_id
    assert (one.counts != two.counts).any()  # the test part is garbage, too
    np.testing.assert_array_equal(one.counts.sum(axis=1), two.counts.sum(axis=1))  # but the predictions are the same
    assert one.pseudo_masks[CAM].n_tiles == two.pseudo_masks[CAM].n_tiles > 2 * 6  # two were bought
    assert (one.pseudo_masks[CAM].counts != two.pseudo_masks[CAM].counts).any()
