"""Stages that learn from tags: what they are told before the first step, what they say, tiles of any size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tissuebench.cli.main import cli
from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.types import Supervision
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import RECORD, read_record, task_folder
from tissuebench.training.pseudo_mask_store import PseudoMasks

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
ONE = ("seeds=[0]", "budgets=['masks:2p']", "training.steps=3")
CAM = "cam_of_a_test"


@pytest.fixture
def folder_of_cam(bench):
    def found(trials):
        graph = bench.graph(trials)
        (task,) = [task for task in graph.of_kind(TaskKind.STAGE) if task.job.document["stage"] == CAM]
        return task_folder(bench.home, TaskKind.STAGE, task.key)

    return found


def test_tiles_of_56_px_are_learnt_from_tags_on_cached_features_and_annotated(bench, plugin, monkeypatch):
    """No multiple of 32: features are those of padded tiles, logits and pseudo-masks those of the tiles."""
    sized, seen = bench.sized(56), []
    annotate = plugin.Classifier.annotate

    def looking(self, batch):
        seen.append(batch.images)
        assert batch.inputs is batch.features
        assert self.network(batch.inputs).shape[-2:] == batch.images.shape[-2:] == (56, 56)
        assert (self.task.tile_px, self.task.white) == (56, None)
        return annotate(self, batch)

    monkeypatch.setattr(plugin.Classifier, "annotate", looking)
    trials = sized.trials(sized.plan(*FROZEN, *ONE), "staged")
    assert not sized.run(trials).failed
    graph = sized.graph(trials)
    (cam,) = [task for task in graph.of_kind(TaskKind.STAGE) if task.job.document["stage"] == CAM]
    masks = PseudoMasks(task_folder(sized.home, TaskKind.STAGE, cam.key))
    assert len(masks.tiles) == sum(len(images) for images in seen) == 2 * 4  # two patients, a slide of 2 x 2 each
    assert masks.read(list(masks.tiles)).shape == (8, 2, 56, 56)
    pixels = torch.cat(seen)
    assert np.array_equal(pixels, sized.data.store.images(list(masks.tiles), 56))
    (result,) = ResultStore(results_folder(sized.home)).load([trials[0].id])
    assert result.dataset == "tiny@56"
    assert result.counts.sum() == 3 * 64 * 96  # every pixel of the test slides
    table = CliRunner().invoke(cli, ["results", "table", "--home", str(sized.home), "--dataset", "tiny@56"])
    assert table.exit_code == 0, table.output
    assert "staged" in table.stdout


def test_a_stage_looks_at_its_tags_before_it_inherits_and_again_when_it_is_resumed(
    bench, plugin, monkeypatch, folder_of_cam
):
    calls = []

    def survey(self, tags):
        calls.append(("survey", tags, next(self.network.encoder.parameters()).detach().clone()))

    inherit = plugin.Classifier.inherit

    def inheriting(self, weights):
        calls.append(("inherit", None, None))
        inherit(self, weights)

    monkeypatch.setattr(plugin.Classifier, "survey", survey)
    monkeypatch.setattr(plugin.Classifier, "inherit", inheriting)
    monkeypatch.setattr(plugin.Staged, "survey", lambda self, tags: calls.append(("last", tags, None)))
    trials = bench.trials(bench.plan(*ONE), "staged")
    bench.run(trials)
    assert [name for name, *_ in calls] == ["survey", "inherit", "last"]
    assert calls[-1][1] == {}  # it has no stream of tags
    (_, tags, first), kinds = calls[0], frozenset({Supervision.TAGS})
    assert tags.keys() == {"tagged"}
    budget = draw_budget(bench.data.store, bench.data.split, "masks:2p", 0)
    view = LabelView.for_training(bench.data.store, bench.data.split, budget, kinds)
    assert torch.equal(tags["tagged"], torch.from_numpy(view.tags_of(view.tag_tiles())))
    assert (tags["tagged"].dtype, tags["tagged"].device.type) == (torch.bool, "cpu")

    (folder_of_cam(trials) / RECORD).unlink()  # as if it had been killed after its last step
    ResultStore(results_folder(bench.home)).path(trials[0].id).unlink()
    calls.clear()
    bench.run(trials)
    assert [name for name, *_ in calls] == ["survey", "inherit", "last"]
    assert torch.equal(calls[0][1]["tagged"], tags["tagged"])
    assert torch.equal(calls[0][2], first)  # nothing was restored yet


def test_what_stages_note_is_kept_and_shown(bench, plugin, monkeypatch, folder_of_cam, capfd):
    def survey(self, tags):
        for _ in range(2):
            self.note("class 'necrosis' has\nno positive tag")

    annotate = plugin.Classifier.annotate

    def annotating(self, batch):
        self.note("every tile looks alike")
        return annotate(self, batch)

    monkeypatch.setattr(plugin.Classifier, "survey", survey)
    monkeypatch.setattr(plugin.Classifier, "annotate", annotating)
    monkeypatch.setattr(plugin.Staged, "survey", lambda self, tags: self.note("the last stage [sees] nothing"))
    staged, plain = (bench.trials(bench.plan(*ONE), name)[0] for name in ("staged", "supervised"))
    bench.run([staged, plain])
    of_cam = ["class 'necrosis' has no positive tag", "every tile looks alike"]
    assert read_record(folder_of_cam([staged]))["notes"] == of_cam
    results = {result.trial_id: result for result in ResultStore(results_folder(bench.home)).load()}
    everything = [*(f"{CAM}: {text}" for text in of_cam), "the last stage [sees] nothing"]
    assert results[staged.id].environment["notes"] == everything
    assert "notes" not in results[plain.id].environment
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("note: ")]
    assert said == [f"note: {text}" for text in (*of_cam, "the last stage [sees] nothing")]

    def shown(trial, *options):
        result = CliRunner().invoke(cli, ["trial", "show", trial.id, "--home", str(bench.home), *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    lines = [line.rstrip() for line in shown(staged).splitlines()]
    assert [line for line in lines if line.startswith("note:")] == [f"note: {text}" for text in everything]
    assert json.loads(shown(staged, "--json"))["notes"] == everything
    assert "note:" not in shown(plain)
    assert json.loads(shown(plain, "--json"))["notes"] == []
