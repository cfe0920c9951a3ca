"""Poisoned labels: with every withheld label replaced by garbage, training gives the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuebench.building import build_datamodule, build_method
from tissuebench.datasets.store_writer import StoreWriter
from tissuebench.datasets.types import Supervision
from tissuebench.datasets.views import LabelView
from tissuebench.machine import detect_machine
from tissuebench.methods.registry import all_methods
from tissuebench.plan import PlannedData
from tissuebench.training import fit

REAL_METHODS = [name for name, kind in all_methods().items() if kind.__module__.startswith("tissuebench.")]


def poisoned(data: PlannedData, budget, kinds, path) -> PlannedData:
    """A store whose images are the same and whose withheld labels are garbage."""
    store, rng = data.store, np.random.default_rng(0)
    writer = StoreWriter(path, store.info, store.class_map)
    train = set(data.split.patients("train"))
    diagnoses = list(store.class_map.diagnoses)
    for slide in store.slides.values():
        labels = store.withheld.mask(slide.slide_id, 0, 0, slide.height, slide.width)
        diagnosis = store.withheld.diagnosis(slide.slide_id)
        if slide.patient_id not in budget.patients or Supervision.MASKS not in kinds:
            labels = rng.integers(0, len(store.class_map), labels.shape, dtype=np.uint8)
        if slide.patient_id not in train or Supervision.DIAGNOSIS not in kinds:
            diagnosis = (diagnoses[int(rng.integers(len(diagnoses)))],)
        image = store.image(slide.slide_id, 0, 0, slide.height, slide.width).transpose(1, 2, 0)
        writer.add(slide.slide_id, slide.patient_id, diagnosis, image, labels, store.tissue(slide.slide_id))
    return PlannedData(writer.seal(), data.split)


def trained(trial, data, folder):
    machine = detect_machine(trial.network.encoder_mode)
    method = build_method(trial, data)
    folder.mkdir()
    fit(method, build_datamodule(trial, method, data, None, machine), folder, trial.seed, machine, lambda _: None)
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


@pytest.mark.parametrize("name", REAL_METHODS)
def test_withheld_labels_change_no_bit(bench, tmp_path, name):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']")
    (trial,) = bench.trials(plan, name)
    bad = poisoned(bench.data, trial.budget, all_methods()[name].consumes, tmp_path / "poisoned.zarr")
    assert bad.store.content_hash != bench.data.store.content_hash
    assert torch.equal(trained(trial, bench.data, tmp_path / "a"), trained(trial, bad, tmp_path / "b"))


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
