"""Poisoned labels: with every withheld label replaced by garbage, training gives the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.benchmark.by_hand import poisoned, run_by_hand
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.diagnostics.snapshot_files import last_snapshot
from tissuebench.errors import WithheldLabelError
from tissuebench.methods.api.registry import all_methods, find_method
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.pseudo_labels.tag_stages import TagClassification
from tissuebench.plans.expand import PlannedData
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.runtime.machine import detect_machine
from tissuebench.sweep.jobs import TaskKind
from tissuebench.training.build import build_datamodule, build_method
from tissuebench.training.fit import fit

REAL_METHODS = {name: kind for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench.")}
STAGED = [name for name, kind in REAL_METHODS.items() if kind.stages(kind.Config(), TrainingSettings())]
TAGGED = ("multilayer_pseudo", "multilayer_pseudo_maps", "multilayer_pseudo_published")
DENOISING = ("diffusion", "diffusion_published")
CONTRASTED = ("anatomical_contrast", "anatomical_contrast_published")
RECIPES = (TAGGED[-1], DENOISING[-1], CONTRASTED[-1])  # trained as published, unless told otherwise
N_STAGES = dict.fromkeys(CONTRASTED, 2)
FEW = tuple(
    f"methods.{name}.{setting}"
    for names, settings in (
        (TAGGED, ("classifier_training.steps=4", "classifier_training.batch_size=4", "hidden=8")),
        (DENOISING, ("pretraining.steps=4", "pretraining.batch_size=4", "width=8")),  # their controls follow
        (
            CONTRASTED,
            (
                "global_training.steps=4",
                "global_training.batch_size=4",
                "local_training.steps=4",
                "representation=8",
                "queries=8",
                "negatives=8",
            ),
        ),
    )
    for name in names
    for setting in settings
)
FEW += tuple(f"methods.{name}.training.{key}=4" for name in RECIPES for key in ("steps", "batch_size"))
FEW += (f"methods.{TAGGED[-1]}.classifier_width=8",)


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    """Of stages that are looked at."""
    monkeypatch.setattr("tissuebench.diagnostics.snapshots._TILES", 2)
    monkeypatch.setattr("tissuebench.methods.denoising.pretraining._SAMPLING_STEPS", 1)


def trained(trial, data, folder):
    machine = detect_machine(trial.network.encoder_mode)
    method = build_method(trial, data)
    folder.mkdir()
    fit(method, build_datamodule(trial, method, data, None, machine), folder, trial.seed, machine, lambda _: None)
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


@pytest.mark.parametrize("name", [name for name in REAL_METHODS if name not in STAGED])
def test_withheld_labels_change_no_bit(bench, tmp_path, name):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", *FEW)
    (trial,) = bench.trials(plan, name)
    bad = poisoned(bench.data, trial.budget, all_methods()[name].consumes, tmp_path / "poisoned.zarr")
    assert bad.store.content_hash != bench.data.store.content_hash
    assert torch.equal(trained(trial, bench.data, tmp_path / "a"), trained(trial, bad, tmp_path / "b"))


@pytest.mark.parametrize("name", STAGED)
def test_withheld_labels_change_no_bit_of_stages_and_pseudo_masks(bench, tmp_path, name):
    """Masks of tiles whose tags were bought are shuffled, so that only their tags are what they were."""
    tagged = Supervision.TAGS in REAL_METHODS[name].consumes
    budget = "tags:2p" if tagged else "masks:2p"
    (trial,) = bench.trials(bench.plan("seeds=[0]", f"budgets=['{budget}']", "training.steps=4", *FEW), name)
    one, other = both(bench, trial, tmp_path)
    assert [kind for kind, *_ in one.values()] == [TaskKind.STAGE] * N_STAGES.get(name, 1) + [TaskKind.TRIAL]
    assert_same_bits(one, other, annotating=tagged)
    if name in DENOISING + CONTRASTED:  # of what people are shown, only the probe has looked at withheld masks
        (figures, _), (poisoned_ones, _) = (last_snapshot(next(iter(made.values()))[-1]) for made in (one, other))
        assert {key for key in figures if figures[key] != poisoned_ones[key]} == {"probe_miou"}


def test_withheld_labels_change_no_bit_where_minutes_buy_masks_and_tags(bench, tmp_path):
    settings = (*FEW, "methods.multilayer_pseudo.mask_share=0.9", "training.steps=4", "network.encoder_mode=finetune")
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['minutes:5']", *settings), "multilayer_pseudo")
    assert len(trial.budget.mask_tiles) == 2
    assert trial.budget.tags.n_tiles > 6
    assert_same_bits(*both(bench, trial, tmp_path))


def both(bench, trial, tmp_path):
    """What the tasks of a trial make of the real labels, and of poisoned ones in another home."""
    kinds = find_method(trial.method).consumes
    bad = poisoned(bench.data, trial.budget, kinds, tmp_path / "poisoned.zarr")
    homes = [bench.elsewhere(tmp_path / name) for name in ("real", "bad")]
    return [run_by_hand([trial], bench.data, home, shown) for home, shown in zip(homes, (bench.data, bad), strict=True)]


def assert_same_bits(one, other, annotating=True):
    assert one.keys() == other.keys()
    for key, (kind, state, masks, _) in one.items():
        assert (masks != []) == (annotating and kind is TaskKind.STAGE)
        assert masks == other[key][2]
        assert state.keys() == other[key][1].keys()
        assert all(torch.equal(value, other[key][1][name]) for name, value in state.items())


def test_a_stage_that_peeks_at_masks_is_noticed(bench, tmp_path, monkeypatch):
    """Shuffled masks do differ: a door that hands them out changes pseudo-masks, and what is learnt from them."""
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['tags:2p']", "training.steps=4", *FEW), TAGGED[0])
    monkeypatch.setattr(LabelView, "masks_if_bought", lambda self, tiles, size: self._labels.masks(tiles, size))
    one, other = both(bench, trial, tmp_path)
    for key, (kind, state, masks, _) in one.items():
        same = all(torch.equal(value, other[key][1][name]) for name, value in state.items())
        assert (kind, same, masks == other[key][2]) in ((TaskKind.STAGE, True, False), (TaskKind.TRIAL, False, True))


def test_a_stage_that_wants_masks_that_were_not_bought_gets_none(bench, monkeypatch):
    """Neither as a stream of them, nor for the tiles whose tags were bought."""
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['tags:2p']", *FEW), "multilayer_pseudo")
    view = LabelView.for_training(bench.data.store, bench.data.split, trial.budget, frozenset(Supervision))
    tagged = view.tag_tiles()
    assert len(tagged) > 2
    assert view.masks_if_bought(tagged, 32) is None
    with pytest.raises(WithheldLabelError, match="not bought"):
        view.masks(tagged[:1], 32)
    wanted = {str(TagClassification.stream): Stream(Supervision.MASKS, 2)}
    monkeypatch.setattr(TagClassification, "streams", lambda self: wanted)
    assert not bench.run([trial]).done
    (failure,) = ResultStore(results_folder(bench.home)).read_failures()
    assert "stream 'tagged' (masks) has no tile in this budget" in failure.reason
    assert "\n" not in failure.reason


def test_an_open_door_is_noticed(bench, tmp_path, monkeypatch):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']")
    (trial,) = bench.trials(plan, "supervised")
    bad = poisoned(bench.data, trial.budget, frozenset({Supervision.MASKS}), tmp_path / "poisoned.zarr")
    real = LabelView.for_training.__func__

    def open_door(cls, store, split, budget, kinds, held_out=()):
        return real(cls, store, split, replace(budget, patients=split.patients("train")), kinds, held_out)

    monkeypatch.setattr(LabelView, "for_training", classmethod(open_door))
    assert not torch.equal(trained(trial, bench.data, tmp_path / "a"), trained(trial, bad, tmp_path / "b"))


@pytest.mark.parametrize("garbage", ["around", "inside"])
def test_what_minutes_did_not_buy_of_a_slide_changes_no_bit(bench, tmp_path, garbage):
    """Ten minutes are five of a slide's six tiles: garbage around them is never seen, garbage inside is."""
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['minutes:10']"), "supervised")
    assert trial.budget.patients == ()
    assert len(trial.budget.mask_tiles) == 5
    store, rng = bench.data.store, np.random.default_rng(0)
    writer = StoreWriter(tmp_path / "poisoned.zarr", store.info, store.class_map)
    for slide in store.slides.values():
        truth = store.withheld.mask(slide.slide_id, 0, 0, slide.height, slide.width)
        bought = np.zeros(truth.shape, dtype=bool)
        for tile in trial.budget.mask_tiles:
            if tile.slide_id == slide.slide_id:
                bought[tile.y : tile.y + 32, tile.x : tile.x + 32] = True
        kept = bought if garbage == "around" else ~bought
        labels = np.where(kept, truth, rng.integers(0, len(store.class_map), truth.shape, dtype=np.uint8))
        image = store.image(slide.slide_id, 0, 0, slide.height, slide.width).transpose(1, 2, 0)
        diagnosis = store.withheld.diagnosis(slide.slide_id)
        writer.add(slide.slide_id, slide.patient_id, diagnosis, image, labels, store.tissue(slide.slide_id))
    bad = PlannedData(writer.seal(), bench.data.split)
    same = torch.equal(trained(trial, bench.data, tmp_path / "a"), trained(trial, bad, tmp_path / "b"))
    assert same is (garbage == "around")


def test_labels_that_were_bought_do_matter(bench, tmp_path):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "methods.complementary.ramp=0")
    (trial,) = bench.trials(plan, "complementary")
    bad = poisoned(bench.data, trial.budget, frozenset({Supervision.MASKS}), tmp_path / "poisoned.zarr")
    assert not torch.equal(trained(trial, bench.data, tmp_path / "a"), trained(trial, bad, tmp_path / "b"))


def test_methods_that_differ_see_the_same_annotated_tiles(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']")
    machine = detect_machine(plan.network.encoder_mode)
    batches = []
    for trial in bench.trials(plan, "supervised", "complementary"):
        method = build_method(trial, bench.data)
        data = build_datamodule(trial, method, bench.data, None, machine)
        batches.append([batch["annotated"] for batch in data.train_dataloader()])
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)
