"""A slide of 20,000 x 20,000 px through the evaluator, from its file: every pixel that counts once, in bounded memory.

It is annotated in part and a case, so that all of its tissue is predicted, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.ingest.large_slides import whole, write_source

SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from tissuebench.plans.schema import EvaluationSettings
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.labels.view import LabelView
from tissuebench.evaluation.evaluate import evaluate
from tissuebench.evaluation.overlays import TilePicker

class ByBrightness(torch.nn.Module):
    def predict(self, images):
        grey = images.float().mean(1, keepdim=True) / 255
        return torch.cat([grey, 1 - grey], 1)

folder = Path(sys.argv[1])
store, split = TileStore(folder / "store.zarr"), Split.read(folder / "split.json")
part = next(part for part in ("train", "val", "test") if split.patients(part))
view = LabelView.for_evaluation(store, split, part)
picker = TilePicker(store)
(slide,) = view.slides
(found,) = evaluate(
    ByBrightness(), store, view, EvaluationSettings(window_px=1024), torch.device("cpu"), "32-true", picker=picker
)
annotated = sum(store.withheld.class_pixels(slide.slide_id))
assert found.counts.sum() == annotated == found.calibration[:, 0].sum(), (found.counts.sum(), annotated)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tissue = store.tissue(slide.slide_id).repeat(16, 0).repeat(16, 1)[:slide.height, :slide.width].sum()
assert found.areas.sum() == tissue > annotated, (found.areas.sum(), tissue)
assert len(picker.chosen) == 6 and len(picker.worst) == 3
print(slide.height, slide.width, annotated, peak, f"{found.seconds:.0f}")
"""


@pytest.mark.slow
def test_twenty_thousand_pixels_a_side_stay_under_a_gigabyte_and_a_half(tmp_path):
    tissue = np.random.default_rng(3).integers(60, 250, (512, 512, 3), dtype=np.uint8)
    root, home = tmp_path / "source", tmp_path / "home"
    write_source(root, tissue, n_slides=1, side=20_000, diagnoses={"benign": ["stroma"], "malignant": ["tumour"]})
    whole(root, home, 1)
    command = [sys.executable, "-P", "-c", SCRIPT, str(home / "data" / "large")]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False, cwd=Path.cwd())
    assert made.returncode == 0, made.stderr
    height, width, annotated, peak_kib, seconds = made.stdout.split()
    print(f"{height} x {width} px, {annotated} of them annotated: {seconds} s, peak {int(peak_kib) / 2**20:.2f} GiB")
    assert (height, width) == ("20000", "20000")
    assert int(peak_kib) < 1.5 * 2**20
