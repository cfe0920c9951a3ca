"""Stitching: positions come back exactly, every pixel once, blending as its formula says, in flat memory."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.evaluation import stitching
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.evaluation.stitching import ImageWindows, Stitching
from tissuebench.plans.schema import EvaluationSettings, Views

CPU = torch.device("cpu")
N_CODES = 11


def how(window_px, overlap_px, tta=Views.NONE):
    return Stitching(window_px, overlap_px, tta, CPU, "32-true")


def strips(method, read, height, width, n_classes, settings, *wanted):
    windows = ImageWindows(read, settings)
    return stitching.strips(method, windows, height, width, n_classes, settings, *wanted)


class ByPosition:
    """Predicts from where a pixel lies on its slide and nothing else, as the image says in its three channels."""

    def predict(self, images):
        red, green, _ = images.long().unbind(1)
        return torch.nn.functional.one_hot((7 * red + 3 * green) % N_CODES, N_CODES).permute(0, 3, 1, 2).float()


def positions(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y % 256, x % 256, 0 * y]).astype(np.uint8)


def codes(image):
    """What ``ByPosition`` says, (H, W)."""
    return (7 * image[0].astype(int) + 3 * image[1].astype(int)) % N_CODES


def reader(image):
    return lambda y, x, height, width: image[:, y : y + height, x : x + width]


geometry = st.tuples(st.integers(1, 150), st.integers(1, 150), st.integers(8, 48), st.floats(0, 0.75))


@examples(60)
@given(geometry, st.integers(1, 60), st.sampled_from(list(Views)))
def test_a_prediction_of_positions_comes_back_and_every_pixel_once(shape, panel_px, tta):
    height, width, window_px, overlap = shape
    image = positions(height, width)
    seen = np.zeros((height, width), dtype=int)
    out = np.full((height, width), 255, dtype=np.uint8)
    numbers = N_CODES * min(window_px, height) * panel_px
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stitching, "_PANEL_NUMBERS", numbers)
        patch.setattr(stitching, "_PIXELS_PER_BATCH", 5 * window_px**2)
        patch.setattr(stitching, "_STRIP_PX", 7 * panel_px)
        for strip in strips(
            ByPosition(), reader(image), height, width, N_CODES, how(window_px, int(overlap * window_px), tta)
        ):
            block = np.s_[strip.y : strip.y + strip.classes.shape[0], strip.x : strip.x + strip.classes.shape[1]]
            seen[block] += 1
            out[block] = strip.classes
            assert np.allclose(strip.confidence, 1, atol=1e-6)
    assert (seen == 1).all()
    assert np.array_equal(out, codes(image))


class ByWindow:
    """Each window has its own probabilities, drawn from a seed that its upper left pixel gives."""

    def predict(self, images):
        out = []
        for image in images:
            rng = torch.Generator().manual_seed(int(image[0, 0, 0]) * 256 + int(image[1, 0, 0]))
            out.append(torch.rand((3, *image.shape[1:]), generator=rng).softmax(0))
        return torch.stack(out)


def by_formula(method, image, window_px, overlap_px):
    """sum of b p over sum of b, window after window, in double."""
    _, height, width = image.shape
    size_y, size_x = min(window_px, height), min(window_px, width)
    plan = how(window_px, overlap_px)
    total, weight = np.zeros((3, height, width)), np.zeros((height, width))
    depth = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in (size_y, size_x)]
    for y, x in itertools.product(plan.starts(height), plan.starts(width)):
        part = np.s_[y : y + size_y, x : x + size_x]
        b = np.outer(*depth)
        p = method.predict(torch.from_numpy(image[:, *part])[None])[0].double().numpy()
        total[:, *part] += b * p
        weight[part] += b
    return total / weight


@pytest.mark.parametrize(
    ("height", "width", "window_px", "overlap_px"), [(70, 90, 32, 16), (33, 120, 40, 9), (20, 25, 64, 0)]
)
@pytest.mark.parametrize("panel_px", [1, 50, 10_000])
def test_windows_are_blended_by_their_depth(monkeypatch, height, width, window_px, overlap_px, panel_px):
    image = positions(height, width)
    expected = by_formula(ByWindow(), image, window_px, overlap_px)
    monkeypatch.setattr(stitching, "_PANEL_NUMBERS", 3 * min(window_px, height) * panel_px)
    wrong = 0
    for strip in strips(ByWindow(), reader(image), height, width, 3, how(window_px, overlap_px)):
        rows, columns = strip.classes.shape
        block = expected[:, strip.y : strip.y + rows, strip.x : strip.x + columns]
        assert np.allclose(strip.confidence, block.max(0), atol=1e-5)
        wrong += (strip.classes != block.argmax(0)).sum()
    assert wrong <= 1  # two classes within rounding


def test_test_time_augmentation_undoes_its_views():
    class Gradient:
        def predict(self, images):
            height, width = images.shape[-2:]
            ramp = torch.linspace(0, 1, width).expand(len(images), height, width)
            return torch.stack([ramp, 1 - ramp], 1)

    image = np.zeros((3, 16, 16), dtype=np.uint8)
    (plain,) = strips(Gradient(), reader(image), 16, 16, 2, how(16, 0))
    (flipped,) = strips(Gradient(), reader(image), 16, 16, 2, how(16, 0, Views.FLIPS))
    assert plain.confidence[0, 0] == pytest.approx(1)
    assert np.allclose(flipped.confidence, 0.5)  # what depends on the side alone is averaged away


@pytest.mark.parametrize(("tta", "factor"), [("none", 1), ("flips", 4), ("dihedral", 8)])
def test_the_work_counts_windows_and_views(tta, factor):
    plan = Stitching.of(EvaluationSettings(tta=tta, overlap=0.5), 32, CPU, "32-true")
    assert plan.work(64, 20) == 3 * 32 * 20 * factor


def test_unwanted_windows_are_not_predicted():
    class Counting(ByPosition):
        n = 0

        def predict(self, images):
            self.n += len(images)
            return super().predict(images)

    method, image = Counting(), positions(64, 64)
    found = list(strips(method, reader(image), 64, 64, N_CODES, how(32, 0), lambda y, x, h, w: (y, x) == (32, 32)))
    assert method.n == 1
    whole = np.concatenate([strip.classes for strip in found])
    assert np.array_equal(whole[32:, 32:], codes(image)[32:, 32:])


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_canvas_gives_back_what_was_written(monkeypatch, tmp_path, in_memory):
    monkeypatch.setattr("tissuebench.evaluation.canvas._IN_MEMORY_PX", 10**9 if in_memory else 0)
    rng = np.random.default_rng(0)
    expected = np.full((700, 1100), 255, dtype=np.uint8)
    with LabelCanvas(700, 1100, tmp_path) as canvas:
        assert len(list(tmp_path.iterdir())) == (0 if in_memory else 1)
        for y, x, height, width in [(0, 0, 90, 1100), (90, 500, 300, 600), (650, 0, 50, 1)]:
            block = rng.integers(0, 7, (height, width), dtype=np.uint8)
            canvas.write(block, y, x)
            expected[y : y + height, x : x + width] = block
        assert np.array_equal(canvas.read(0, 0, 700, 1100), expected)
        assert np.array_equal(canvas.read(60, 450, 100, 200), expected[60:160, 450:650])
    assert not list(tmp_path.iterdir())


MEMORY = """
import resource, sys
import numpy as np, torch
from tissuebench.evaluation.canvas import LabelCanvas
from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.evaluation.evaluate import boundaries_by_blocks
from tissuebench.evaluation.slide_counts import confusion, calibration_bins
from tissuebench.evaluation.stitching import ImageWindows, Stitching, strips
from tissuebench.plans.schema import EvaluationSettings
edge, k = int(sys.argv[1]), 6
class ByColour:
    def predict(self, images):
        classes = images[:, 0].long() % k
        return torch.nn.functional.one_hot(classes, k).permute(0, 3, 1, 2).float()
def image(y, x, height, width):
    rows, columns = np.arange(y, y + height)[:, None] // 37, np.arange(x, x + width)[None] // 53
    return np.broadcast_to((rows + columns).astype(np.uint8) % k, (3, height, width)).copy()
truth = lambda *at: image(*at)[0]
how = Stitching.of(EvaluationSettings(overlap=0.0), 512, torch.device("cpu"), "32-true")
counts = 0
with LabelCanvas(edge, edge) as canvas:
    for strip in strips(ByColour(), ImageWindows(image, how), edge, edge, k, how):
        canvas.write(strip.classes, strip.y, strip.x)
        counts = counts + confusion(truth(strip.y, strip.x, *strip.classes.shape), strip.classes, k)
    found = boundaries_by_blocks(truth, canvas, k, 5.0)
assert counts.sum() == edge**2 == np.trace(counts), counts
assert (found[:, 0] == found[:, 1]).all() and (found[:, 2] == found[:, 3]).all() and found.sum() > 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_a_slide_of_20000_px_stays_under_a_gigabyte_and_a_half():
    made = subprocess.run(
        [sys.executable, "-P", "-c", MEMORY, "20000"], capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert made.returncode == 0, made.stderr
    assert int(made.stdout) < 1500
