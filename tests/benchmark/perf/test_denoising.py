"""The benchmark of denoising: both ways train as a fit does and see the same, and a difference that is there is found."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch.utils.data import DataLoader

from tissuebench.cli.main import cli
from tissuebench.common.hashing import derive_seed
from tissuebench.datasets.types import TileBatch
from tissuebench.errors import ConfigError
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.denoising.pretraining import TISSUE, Denoising, DenoisingSettings
from tissuebench.methods.denoising.schedule import NoiseSchedule
from tissuebench.methods.networks.diffusion_unet import DiffusionUNet
from tissuebench.perf import denoising
from tissuebench.perf.denoising import GOAL, MeasuredSteps, Training, Way, compare, measure, tissue_tiles, window_means
from tissuebench.training.callbacks import StepSeeds, TrainingError

STEPS, PX, BATCH = 6, 32, 2
SETTINGS = DenoisingSettings(network="paper", width=8, multipliers=(1, 2), patch=2, fullres_skip=True)
TASK = replace(make_task(), training=TrainingSettings(steps=STEPS, batch_size=BATCH), tile_px=PX)
CPU = torch.device("cpu")
WAYS = pytest.mark.parametrize("way", list(Way))


@pytest.fixture(scope="module")
def tiles():
    return tissue_tiles(PX, 256, 2)


@pytest.fixture
def in_bf16(monkeypatch):
    """Something that happens to what the network predicts, and the number of the step, under autocast alone."""

    def changed(change):
        predict, asked = DiffusionUNet.forward, []

        def forward(network, x, t):
            predicted = predict(network, x, t)
            if not torch.is_autocast_enabled("cpu"):
                return predicted
            asked.append(t)
            return change(predicted, len(asked) - 1)

        monkeypatch.setattr(DiffusionUNet, "forward", forward)

    return changed


def agreement(tiles):
    """The line that judges the losses."""
    (line,) = (line for line in compare(measure(TASK, SETTINGS, tiles, 3), 3, BATCH) if line.goal is not None)
    return line


# What both see.


def test_both_start_from_the_same_weights_in_memory_of_their_own():
    wide, narrow = (Training(way, TASK, SETTINGS, CPU).stage for way in Way)
    one, other = wide.state_dict(), narrow.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(value.is_contiguous() for value in wide.network.parameters())
    kernels = [value for value in narrow.network.parameters() if value.ndim == 4]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)
    assert not all(value.is_contiguous() for value in kernels)


@WAYS
def test_what_convolutions_see(way):
    """The linear attention hands its last convolution channels last, whatever it was given."""
    trained, seen = Training(way, TASK, SETTINGS, CPU), {}
    for name, module in trained.stage.network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and "to_out" not in name:
            module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0], out)}))
    trained.step(0, torch.rand(BATCH, 3, PX, PX, generator=torch.Generator().manual_seed(0)))
    memory = torch.contiguous_format if way is Way.FLOAT32 else torch.channels_last
    assert len(seen) > 10
    assert all(given.is_contiguous(memory_format=memory) for given, _ in seen.values())
    assert {out.dtype for _, out in seen.values()} == {torch.float32 if way is Way.FLOAT32 else torch.bfloat16}


def test_both_see_the_same_tiles_noise_and_times_in_turn(tiles, monkeypatch):
    seen, noised = [], NoiseSchedule.noised

    def watched(schedule, *drawn):
        seen.append((torch.is_autocast_enabled("cpu"), drawn))
        return noised(schedule, *drawn)

    monkeypatch.setattr(NoiseSchedule, "noised", watched)
    measure(TASK, SETTINGS, tiles, 2)
    narrow = [is_narrow for is_narrow, _ in seen]
    assert narrow == [False, False, True, True, True, True, False, False, False, False, True, True]
    of_each = [[drawn for is_narrow, drawn in seen if is_narrow is which] for which in (False, True)]
    for one, other in zip(*of_each, strict=True):
        assert [value.dtype for value in one] == [torch.float32, torch.float32, torch.int64]
        for mine, yours in zip(one, other, strict=True):
            assert mine.stride() == yours.stride()
            assert torch.equal(mine, yours)
    clean, noise, times = (torch.stack(values) for values in zip(*of_each[0], strict=True))
    assert clean.shape == noise.shape == (STEPS, BATCH, 3, PX, PX)
    assert len({step.numpy().tobytes() for values in (clean, noise, times) for step in values}) == 3 * STEPS
    known = {(tile.astype(np.float32) / 255 * 2 - 1).tobytes() for tile in tiles}
    assert all(tile.numpy().tobytes() in known for tile in clean.flatten(0, 1))


def test_tiles_are_of_tissue():
    tiles = tissue_tiles(64, 256, 2)
    assert (tiles.shape[1:], tiles.dtype) == ((3, 64, 64), np.uint8)
    assert 16 < len(tiles) < 32  # some are of glass
    assert tiles.std(axis=(1, 2, 3)).min() > 5
    assert len({tile.tobytes() for tile in tiles}) == len(tiles)
    red, green, blue = tiles.mean(axis=(0, 2, 3))
    assert green < min(red, blue)  # pink and violet
    with pytest.raises(ConfigError, match="perf-denoising: tile_px is 257"):
        tissue_tiles(257, 256, 1)


# What is trained.


class Losses(Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append(float(outputs["loss"]))


class Seeded(StepSeeds):
    def __init__(self):
        pass

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.manual_seed(derive_seed(denoising._SEED, "step", trainer.global_step))


@WAYS
@pytest.mark.filterwarnings("ignore")
def test_its_steps_are_those_of_a_fit(way, tmp_path):
    """Optimiser, learning rate, clipping and precision: Lightning, with what the runner tells it, gets the same bits."""
    images = torch.rand(STEPS, BATCH, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    mine, theirs, losses = Training(way, TASK, SETTINGS, CPU), Training(way, TASK, SETTINGS, CPU).stage, Losses()
    for number, of_step in enumerate(images):
        mine.step(number, of_step)
    batches = [{TISSUE: TileBatch(step=number, images=of_step)} for number, of_step in enumerate(images)]
    Trainer(
        accelerator="cpu", devices=1, precision="32-true" if way is Way.FLOAT32 else "bf16-mixed", max_steps=STEPS,
        gradient_clip_val=TASK.training.gradient_clip, callbacks=[Seeded(), losses], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    ).fit(theirs, DataLoader(batches, batch_size=None))  # fmt: skip
    assert mine.measured.losses.tolist() == losses.found
    state = theirs.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in mine.stage.state_dict().items())


def test_its_seconds_are_those_of_the_parts(tiles, monkeypatch):
    now, step, backward = [0.0], Denoising.training_step, torch.autograd.backward
    clip = Denoising.configure_gradient_clipping

    def passing(seconds, function):
        def timed(*args):
            now[0] += seconds() if callable(seconds) else seconds
            return function(*args)

        return timed

    def forward_seconds():
        return 0.5 if torch.is_autocast_enabled("cpu") else 2.0

    monkeypatch.setattr(denoising.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Denoising, "training_step", passing(forward_seconds, step))
    monkeypatch.setattr(torch.autograd, "backward", passing(4.0, backward))
    monkeypatch.setattr(Denoising, "configure_gradient_clipping", passing(8.0, clip))
    found = measure(TASK, SETTINGS, tiles, 4)
    assert found[Way.FLOAT32].seconds.tolist() == STEPS * [[2, 4, 8]]
    assert found[Way.BF16].seconds.tolist() == STEPS * [[0.5, 4, 8]]


# What is told.


def test_both_precisions_agree_and_are_two(tiles):
    line = agreement(tiles)
    assert line.holds is True
    assert 0 < line.value < GOAL / 2


@pytest.mark.parametrize(
    ("factor", "summand", "holds"), [(1, 0, True), (3, 0, False), (0.5, 0, False), (1, 0.5, False)]
)
def test_a_difference_that_is_there_is_found(tiles, in_bf16, factor, summand, holds):
    in_bf16(lambda predicted, _: predicted * factor + summand)
    assert agreement(tiles).holds is holds


def test_a_difference_in_one_window_is_found(tiles, in_bf16, monkeypatch):
    monkeypatch.setattr(denoising, "_WINDOW", 2)
    in_bf16(lambda predicted, step: predicted + (1 if step == STEPS - 1 else 0))
    line = agreement(tiles)
    assert line.holds is False
    assert float(line.note.removeprefix("median of 3: ").partition(";")[0]) < GOAL


def test_a_loss_that_is_no_number_stops_it(tiles, in_bf16):
    in_bf16(lambda predicted, step: predicted * (float("nan") if step == 2 else 1))
    with pytest.raises(TrainingError, match=r"^perf-denoising: in bf16, the loss is nan at step 2$"):
        measure(TASK, SETTINGS, tiles, 3)


def test_lines_are_of_all_losses_and_of_seconds_without_the_first_round():
    losses = np.repeat([1.0, 0.5], [20, 21])
    late = losses * np.repeat([1.01, 0.97], [20, 21])
    seconds = np.array([[9.0, 9.0, 9.0]] * 10 + [[1.0, 2.0, 1.0]] * 31)
    quick = np.array([[9.0, 9.0, 9.0]] * 10 + [[1.0, 0.5, 0.5]] * 31)
    found = {Way.FLOAT32: MeasuredSteps(losses, seconds), Way.BF16: MeasuredSteps(late, quick)}
    lines = compare(found, 10, 16)
    assert [line.value for line in lines] == pytest.approx([0.5, 0.03, 4, 8, 0.25, 0.5, 0.25, 0.5, 0.25, 0.25])
    assert [line.goal for line in lines] == [None, 0.02] + 8 * [None]
    assert lines[1].holds is False
    assert lines[1].note == "median of 2: 0.02; loss from 1 to 0.5"
    higher = replace(found[Way.BF16], losses=losses * 1.019)
    assert compare({**found, Way.BF16: higher}, 10, 16)[1].holds is True
    assert lines[4].name == "share of a step: forward, float32"
    assert lines[4].note == "1e+03 ms"
    assert lines[9].name == "share of a step: optimiser, bf16"


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=100))
def test_windows_are_of_20_steps_and_leave_none_out(losses):
    means = window_means(np.array(losses))
    sizes = [20] * len(means)
    sizes[-1] = len(losses) - 20 * (len(means) - 1)
    assert sizes[-1] < 40
    assert len(means) == 1 or sizes[-1] >= 20
    assert means @ sizes == pytest.approx(sum(losses))
    assert means[0] == pytest.approx(np.mean(losses[: sizes[0]]))


# The command.


def invoke(*options):
    return CliRunner().invoke(cli, ["perf", "denoising", *options])


@pytest.fixture
def few_tiles(tiles, monkeypatch):
    monkeypatch.setattr(denoising, "tissue_tiles", lambda tile_px: tiles)


TINY = ("--width", "8", "--multipliers", "1, 2", "--tile-px", str(PX), "--batch", "2", "--steps", str(STEPS))


@pytest.mark.usefixtures("few_tiles")
def test_json_alone_is_printed():
    printed = invoke(*TINY, "--json")
    assert printed.exit_code == 0, printed.output
    lines = {line["name"]: line for line in json.loads(printed.stdout)}
    assert len(lines) == 10
    assert all(line["value"] > 0 for line in lines.values())
    seconds, loss, *told = lines.values()
    assert seconds["name"] == "seconds a step, bf16 in channels_last to float32"
    assert loss == {**loss, "name": "relative difference of the loss, windows of 20 steps", "goal": 0.02, "holds": True}
    assert {line["holds"] for line in (seconds, *told)} == {None}
    rates = {way: lines[f"tiles a second, {way}"]["value"] for way in Way}
    assert seconds["value"] == pytest.approx(rates["float32"] / rates["bf16"])
    for way in Way:
        shares = [line["value"] for name, line in lines.items() if name.startswith("share") and name.endswith(way)]
        assert sum(shares) == pytest.approx(1)


@pytest.mark.usefixtures("few_tiles")
def test_the_table_says_what_holds(in_bf16):
    def table():
        out = io.StringIO()
        denoising.run(Console(file=out, width=160), False, 8, "1,2", 2, PX, BATCH, 2)
        return out.getvalue()

    text = table()
    assert "(2 tiles of 32 px; U-Net of width 8 x (1,2), patch 2)" in text
    assert "tiles a second, bf16" in text
    assert ("holds" in text, "MISSED" in text) == (True, False)
    in_bf16(lambda predicted, _: predicted + 1)
    text = table()
    assert ("holds" in text, "MISSED" in text) == (False, True)


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--width", "12"), "perf-denoising: key 'width': Input should be a multiple of 8"),
        (("--multipliers", "1,x"), "perf-denoising: key 'multipliers.1': Input should be a valid integer"),
        (("--multipliers", "2"), "perf-denoising: key 'multipliers': Tuple should have at least 2 items"),
        (("--steps", "1"), "perf-denoising: 1 steps are too few; give at least 2"),
        (("--multipliers", "0,1"), "perf-denoising: key 'multipliers.0': Input should be greater than or equal to 1"),
    ],
)
def test_what_is_not_possible_is_told_in_one_line(options, told):
    error = invoke(*options).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(told)
    assert "\n" not in str(error)
