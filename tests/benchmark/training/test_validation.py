"""Curves on held-out patients: bought ones select the checkpoint, those of the validation part are only watched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.types import IGNORE_LABEL, Tile
from tissuebench.evaluation.evaluate import SlideScorer, evaluate
from tissuebench.evaluation.stitching import ImageWindows, Stitching, strips
from tissuebench.results.metrics import miou
from tissuebench.results.records.curves import read_curves
from tissuebench.runtime.machine import detect_machine
from tissuebench.runtime.processes import ALONE
from tissuebench.training.build import build_datamodule, build_method, validation_of
from tissuebench.training.fit import Interrupted, fit

PLAN = ("seeds=[0]", "budgets=['masks:3p']", "training.steps=7")
SELECTS = ("training.selection_share=0.34", "training.selection_every=3")
WATCHES = ("evaluation.watch=val", "evaluation.watch_every=3")


@pytest.fixture
def run(bench, tmp_path):
    """Fits and hands back the method, the fit, its curves and the trial; can be stopped, and then called again."""

    def ran(name, *settings, stop_at=None, report=lambda step: None):
        (trial,) = bench.trials(bench.plan(*PLAN, *settings), "supervised")
        machine, method = detect_machine(trial.network.encoder_mode), build_method(trial, bench.data)
        data = build_datamodule(trial, method, bench.data, None, machine)
        validation, keep_best = validation_of(trial, bench.data, machine, ALONE)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        options = {"validation": validation, "keep_best": keep_best}
        options["stop"] = lambda: method.trainer.global_step == stop_at
        fitted = fit(method, data, folder, trial.seed, machine, report, **options)
        return method, fitted, read_curves(folder), trial

    return ran


def same_weights(one, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_watching_chooses_nothing_and_changes_nothing(run):
    plain, fitted, curves, trial = run("plain")
    watched, also, more, same = run("watched", *WATCHES)
    assert same_weights(plain, watched)
    assert trial.id == same.id
    assert fitted.selected_step is None
    assert also.selected_step is None
    assert more["train/loss"] == curves["train/loss"]
    assert [step for step, _ in more["val/miou"]] == [3, 6, 7]
    assert not any(name.startswith(("val/", "selection/")) for name in curves)


def test_selection_is_by_bought_patients_whether_or_not_others_are_watched(run):
    selected, fitted, curves, trial = run("selects", *SELECTS)
    both, also, more, same = run("both", *SELECTS, *WATCHES)
    assert trial.id == same.id
    assert same_weights(selected, both)
    assert fitted.selected_step == also.selected_step
    points = curves["selection/miou"]
    assert more["selection/miou"] == points
    assert [step for step, _ in points] == [step for step, _ in more["val/miou"]] == [3, 6, 7]
    assert fitted.selected_step == max(points, key=lambda point: (point[1], point[0]))[0]


def test_the_last_score_is_that_of_the_evaluation(bench, run):
    method, _, curves, trial = run("watched", *WATCHES)
    machine, view = (
        detect_machine(trial.network.encoder_mode),
        LabelView.for_evaluation(bench.data.store, bench.data.split, "val"),
    )
    slides = evaluate(method, bench.data.store, view, trial.evaluation, machine.device, machine.precision)
    last = {name: points[-1] for name, points in curves.items() if name.startswith("val/")}
    counts = np.sum([slide.counts for slide in slides], axis=0)
    assert last["val/miou"] == (7, pytest.approx(float(miou(counts))))
    bins = np.sum([slide.calibration for slide in slides], axis=0)
    assert last["val/ece"] == (7, pytest.approx(np.abs(bins[:, 1] - bins[:, 2]).sum() / counts.sum()))
    assert last["val/loss"] == (7, pytest.approx(log_loss(bench, method, view, trial, machine), rel=1e-6))


def log_loss(bench, method, view, trial, machine):
    """Mean of -log p over the annotated pixels, in float64, by indexing."""
    store, losses = bench.data.store, []
    how = Stitching.of(trial.evaluation, store.info.tile_px, machine.device, machine.precision)
    for slide in view.slides:
        read = lambda *where: store.image(slide.slide_id, *where)  # noqa: B023, E731 - used at once
        for strip in strips(
            method.eval(), ImageWindows(read, how), slide.height, slide.width, len(store.class_map), how
        ):
            truth = view.mask(Tile(slide.slide_id, strip.y, strip.x), *strip.classes.shape)
            probabilities = strip.probabilities.numpy().astype(np.float64)
            for y, x in zip(*np.nonzero(truth != IGNORE_LABEL), strict=True):
                losses.append(-np.log(max(probabilities[truth[y, x], y, x], 1.1920929e-07)))
    return np.mean(losses)


@pytest.mark.parametrize("stop_at", [2, 3, 6])
def test_a_fit_stopped_at_any_step_has_each_validation_once(run, stop_at):
    """Also where the step is followed by a validation: the checkpoint waits for it."""
    whole, fitted, curves, _ = run("whole", *SELECTS, *WATCHES)
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at}"):
        run("cut", *SELECTS, *WATCHES, stop_at=stop_at)
    again, also, more, _ = run("cut", *SELECTS, *WATCHES)
    assert same_weights(whole, again)
    assert also.selected_step == fitted.selected_step
    for name in curves:
        if name not in ("train/tiles_per_second", "train/waiting"):
            assert more[name] == curves[name]


def test_the_time_of_watching_is_not_the_methods(run, monkeypatch):
    """Time goes by in scoring alone, 100 s for a slide; one slide selects, three times."""
    now, score = [0.0], SlideScorer.score

    def slowly(scorer, method, index):
        now[0] += 100
        score(scorer, method, index)

    monkeypatch.setattr(SlideScorer, "score", slowly)
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(f"time.{clock}", lambda: now[0])
    assert run("watched", *WATCHES)[1].seconds == 0
    assert run("selects", *SELECTS)[1].seconds == run("both", *SELECTS, *WATCHES)[1].seconds == 3 * 100


def test_every_slide_of_a_validation_is_reported_lest_it_look_like_a_stall(run):
    reports = []
    run("watched", *WATCHES, report=reports.append)
    assert [reports.count(step) for step in (2, 3, 6)] == [1, 1 + 2, 1 + 2]
