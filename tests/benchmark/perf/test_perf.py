"""The benchmarks of the suite: they compare the same pixels and count what they say. No test here has a stopwatch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tissuebench.datasets.types import TileBatch
from tissuebench.errors import ConfigError
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.perf import loader, tiles
from tissuebench.perf import ratios as table
from tissuebench.perf.loader import HalfConstant, block_of, block_rates, measure
from tissuebench.perf.ratios import Ratio, in_turn, ratio, show
from tissuebench.perf.slide_forms import CODECS, SLIDE_ID, TILE_PX, draw, write_forms
from tissuebench.runtime.machine import detect_machine
from tissuebench.training.build import build_datamodule, build_method


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    return write_forms(tmp_path_factory.mktemp("forms"), 768, n_tiles=7, seed=0)


def printed(lines, as_json):
    out = io.StringIO()
    show("title", lines, Console(file=out, width=160), as_json)
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "goal", "holds"), [(2.0, 2.0, True), (1.99, 2.0, False), (None, 2.0, None), (1.0, None, None)]
)
def test_a_line_holds_from_its_goal_on(value, goal, holds):
    assert Ratio("x", value, goal).holds is holds


def test_json_is_a_list_of_four_keys_and_nothing_else():
    lines = [
        Ratio("fast", 3.25, 2.0, "spread"),
        Ratio("slow", 0.5, 0.6),
        Ratio("told", 0.9),
        Ratio("absent", None, 5.0),
    ]
    assert json.loads(printed(lines, as_json=True)) == [
        {"name": "fast", "value": 3.25, "goal": 2.0, "holds": True},
        {"name": "slow", "value": 0.5, "goal": 0.6, "holds": False},
        {"name": "told", "value": 0.9, "goal": None, "holds": None},
        {"name": "absent", "value": None, "goal": 5.0, "holds": None},
    ]


def test_the_table_says_what_was_missed():
    text = printed(
        [Ratio("fast", 3.25, 2.0), Ratio("slow", 0.5, 0.6), Ratio("absent", None, 5.0, "not measured")], False
    )
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 4}
    assert "holds" in rows["fast"]
    assert "MISSED" in rows["slow"]
    assert "MISSED" not in rows["absent"]
    assert "not measured" in rows["absent"]


class Clock:
    """Time that passes only when something is read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads: list[tuple[str, list[int]]] = []

    def source(self, name, seconds_per_item):
        def read(rows):
            self.reads.append((name, list(rows)))
            self.now += seconds_per_item * len(rows)

        return read


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 6), st.integers(0, 9))
def test_rates_are_those_of_the_sources(n_items, batch, rounds, seed):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table.time, "perf_counter", lambda: clock.now)
        sources = {"quick": clock.source("quick", 0.001), "slow": clock.source("slow", 0.004)}
        rates = in_turn(sources, n_items, batch, 1.0, rounds, seed)
    assert {name: len(values) for name, values in rates.items()} == {"quick": rounds, "slow": rounds}
    np.testing.assert_allclose(rates["quick"], 1000)
    np.testing.assert_allclose(rates["slow"], 250)
    line = ratio("quick to slow", rates["quick"], rates["slow"], goal=4.1)
    assert line.value == pytest.approx(4)
    assert line.holds is False
    for name in sources:  # every item once before anything is timed, so that all find it warm
        calls = [rows for source, rows in clock.reads if source == name]
        warm = calls[: -(-n_items // batch)]
        assert [row for rows in warm for row in rows] == list(range(n_items))
    turns = [name for name, _ in clock.reads[2 * -(-n_items // batch) :]]
    changes = sum(one != other for one, other in pairwise(turns))
    assert changes >= rounds  # in turn, not one after the other


def test_a_ratio_is_the_median_over_rounds_not_of_medians():
    of, to = np.array([1.0, 10.0, 100.0]), np.array([1.0, 5.0, 100.0])
    assert ratio("x", of, to).value == 1.0


def test_all_ways_read_the_same_pixels(forms):
    """A reader that is quick because it reads something else would win; lossless ones agree to the bit."""
    ways, rows = tiles.sources(forms), [3, 0, 6, 2]
    expected = np.array(forms.images[rows])
    found = {name: np.stack(list(read(rows))) for name, read in ways.items()}
    for name in (*CODECS, "none batch", "memmap", "zarr-python"):
        assert np.array_equal(found[name], expected), name
    assert np.array_equal(found["png"].transpose(0, 3, 1, 2), expected)
    assert np.array_equal(found["tiff"].reshape(4, TILE_PX, TILE_PX, 3).transpose(0, 3, 1, 2), expected)
    assert np.array_equal(found["labels"], found["memmap labels"])
    assert len(np.unique(found["labels"])) > 1
    whole = forms.stores["none"].image(SLIDE_ID, 0, 0, 768, 768)
    off_grid = tiles._off_grid(forms)
    assert all(tile.y % TILE_PX and tile.x % TILE_PX for tile in off_grid)
    shifted = [whole[:, t.y : t.y + TILE_PX, t.x : t.x + TILE_PX] for t in off_grid]
    assert np.array_equal(found["lz4 off grid"], np.stack(shifted)[rows])
    if "openslide" not in ways:
        pytest.skip("OpenSlide is not installed")
    for name, wanted in (("openslide", expected), ("openslide off grid", found["lz4 off grid"])):
        difference = found[name].transpose(0, 3, 1, 2).astype(int) - wanted
        assert np.abs(difference).max() <= 3, name  # another JPEG decoder


def test_the_slide_is_tissue_not_noise_and_not_blank():
    image, labels = draw(640, seed=1)
    assert image.shape == (640, 640, 3)
    assert len(np.unique(labels)) >= 3
    smooth = np.abs(np.diff(image[..., 1].astype(int), axis=1)).mean()
    assert image.std() > 20
    assert smooth < image.std() / 2  # neighbours are alike, unlike in noise


def test_a_mosaic_covers_a_slide_larger_than_its_pieces(monkeypatch):
    monkeypatch.setattr("tissuebench.perf.slide_forms._PIECE_PX", 256)
    image, labels = draw(768, seed=0)
    pieces = {image[y : y + 256, x : x + 256].tobytes() for y in range(0, 768, 256) for x in range(0, 768, 256)}
    assert len(pieces) == 9  # no piece twice in the same orientation
    assert labels.max() < 6


@pytest.mark.parametrize("size_px", [0, 256, 700])
def test_a_size_that_is_no_grid(size_px):
    with pytest.raises(ConfigError, match="perf-tiles: size_px") as caught:
        tiles.run(Console(file=io.StringIO()), False, size_px)
    assert "\n" not in str(caught.value)


def test_without_openslide_its_lines_say_so(forms, monkeypatch):
    monkeypatch.setattr(tiles, "_openslide", lambda: None)
    lines = tiles.compare(forms, seconds=0.01)
    absent = [line for line in lines if line.value is None]
    assert len(absent) == 3
    assert all("OpenSlide" in line.name and "tissuebench[openslide]" in line.note for line in absent)
    assert all(line.holds is None for line in absent)
    sizes = {line.name: line.value for line in lines if line.name.startswith("bytes")}
    assert 0 < sizes["bytes of the store (zstd) to raw"] < 1 <= sizes["bytes of the store (none) to raw"] < 1.01


def test_tiles_from_a_process_of_its_own_prints_json_alone(tmp_path):
    code = (
        "from rich.console import Console\n"
        "from tissuebench.perf.tiles import run\n"
        "run(Console(), True, size_px=512, seconds=0.01)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=300, env={"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    assert len({line["name"] for line in lines}) == len(lines) == 14
    assert sorted(line["goal"] for line in lines if line["goal"]) == [0.5, 0.6, 2, 5, 8]
    assert all(line["holds"] == (line["value"] >= line["goal"]) for line in lines if line["goal"] and line["value"])
    assert list(tmp_path.iterdir()) == []  # the slide is gone


@given(st.integers(1, 5), st.integers(2, 6), st.floats(0.01, 2), st.floats(0.01, 2))
def test_block_rates_tell_both_kinds_apart(block, rounds, real, constant):
    steps = np.repeat(np.tile([real, constant], rounds), block)
    steps[: 2 * block] *= 7  # the first two blocks warm up
    ends = [5.0, *(5.0 + np.cumsum(steps)).tolist()]
    of_real, of_constant = block_rates(ends, block, per_step=16)
    assert len(of_real) == len(of_constant) == rounds - 1
    np.testing.assert_allclose(of_real, 16 / real)
    np.testing.assert_allclose(of_constant, 16 / constant)


def of_bench(bench, steps):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", f"training.steps={steps}")
    (trial,) = bench.trials(plan, "complementary")
    return trial, detect_machine(EncoderMode.FINETUNE)


def test_every_second_block_is_one_constant_batch(bench):
    trial, machine = of_bench(bench, 12)
    real = build_datamodule(trial, build_method(trial, bench.data), bench.data, None, machine)
    handed_out = list(HalfConstant(real, block=3).train_dataloader())
    expected = list(real.train_dataloader())
    assert len(handed_out) == 12
    real_steps = [step for step in range(12) if step // 3 % 2 == 0]
    for number, step in enumerate(real_steps):
        assert_same(handed_out[step], expected[number])
    for step in sorted(set(range(12)) - set(real_steps)):
        assert_same(handed_out[step], expected[0])
        assert {batch.step for batch in handed_out[step].values()} == {step}  # augmented anew


def assert_same(found: dict[str, TileBatch], expected: dict[str, TileBatch]) -> None:
    assert found.keys() == expected.keys()
    for name, batch in found.items():
        for key in ("images", "masks", "excluded"):
            one, other = getattr(batch, key), getattr(expected[name], key)
            assert (one is None and other is None) or torch.equal(one, other)


def test_both_kinds_of_batch_are_augmented(bench):
    trial, machine = of_bench(bench, 4)
    real = build_datamodule(trial, build_method(trial, bench.data), bench.data, None, machine)
    module = HalfConstant(real, block=1)
    for batch in module.train_dataloader():
        augmented = module.on_after_batch_transfer(batch, 0)
        for name in batch:
            assert batch[name].images.dtype == torch.uint8
            assert augmented[name].images.is_floating_point()


def test_a_fit_is_measured_by_blocks(bench, display, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "_BLOCK", 2)
    trial, machine = of_bench(bench, 12)
    assert block_of(machine) == 2
    real, constant = measure(trial, bench.data, None, machine, tmp_path / "fit", display)
    assert real.shape == constant.shape == (2,)  # three of each, without the first
    assert (real > 0).all()
    assert (constant > 0).all()
    assert list((tmp_path / "fit").glob("*.ckpt")) == []  # none is written while the clock runs
