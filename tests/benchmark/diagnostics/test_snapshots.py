"""Looks at a stage: when, of what, what they leave, and that they leave the training as it is."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from tissuebench.datasets.labels.budget import LabelBudget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment_settings import AugmentSettings
from tissuebench.datasets.loading.datamodule import LoaderSettings, TileDataModule
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo, TileStore
from tissuebench.datasets.types import ClassMap, LabelCosts
from tissuebench.diagnostics.contact_sheet import CELL, GAP, LINE, draw_pictures, place
from tissuebench.diagnostics.snapshot_files import last_snapshot, picture_of, snapshot_path
from tissuebench.diagnostics.snapshots import snapshot_callback, tiles_to_show
from tissuebench.errors import DataError
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.api.stage import Snapshot
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.denoising.pretraining import Denoising, DenoisingSettings
from tissuebench.methods.pseudo_labels.tag_stages import ClassifierSettings, TagClassification
from tissuebench.runtime.machine import Machine
from tissuebench.training.fit import Interrupted, fit, seed_everything

STEPS = 8
DUE = [0, 2, 4, 6, 8]
TINY = {"network": "paper", "width": 8, "multipliers": (1, 2)}
FLOAT32, BF16 = "32-true", "bf16-mixed"


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Few tiles, and samples of one step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tissuebench.diagnostics.snapshots._TILES", 3)
        patch.setattr("tissuebench.diagnostics.linear_probe._TILES", 4)
        patch.setattr("tissuebench.methods.denoising.pretraining._SAMPLING_STEPS", 1)
        yield


class Shown(Denoising):
    """A stage that notes how it is looked at."""

    def snapshot(self, images, generator):
        assert not self.training
        assert not any(module.training for module in self.modules())
        assert not torch.is_grad_enabled()
        assert images.dtype == torch.uint8
        self.looked_at = [*getattr(self, "looked_at", []), images.clone()]
        return super().snapshot(images, generator)

    def training_step(self, batch, batch_idx):
        assert self.training
        assert all(module.training for module in self.network.modules())
        return super().training_step(batch, batch_idx)


class Featureless(Denoising):
    """Shows the images, and has no features."""

    def snapshot(self, images, generator):
        return Snapshot({"one_figure": 0.25}, {"image": images / 255})

    def maps(self, images):
        return None


class Silent(Featureless):
    """Has nothing to show after all."""

    def snapshot(self, images, generator):
        return None


class Beside(Callback):
    """The global generators before and after what stands between two of these."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, pl_module):
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        of_numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one is meant
        self.states.append((random.getstate(), of_numpy, torch.get_rng_state().tolist()))


@pytest.fixture(scope="module")
def start(tiny_data, tmp_path_factory):
    """Fits a new stage in a folder of that name, by default a new one and looked at; the stage and the folder."""
    root = tmp_path_factory.mktemp("fits")

    def started(name=None, looked_at=True, kind=Shown, steps=STEPS, stop=None, precision=FLOAT32, **settings):
        seed_everything(0)
        task = replace(make_task(), training=TrainingSettings(steps=steps, batch_size=2), tile_px=32)
        stage = kind(task, DenoisingSettings(**{**TINY, "average": 0.75, **settings}))
        nothing = LabelBudget("masks:0p", 0, tiny_data.split.sha256)
        view = LabelView.for_training(tiny_data.store, tiny_data.split, nothing, frozenset())
        data = TileDataModule(tiny_data.store, view, stage.streams(), 0, steps, AugmentSettings())
        folder = root / (name or f"fit{len(list(root.iterdir()))}")
        folder.mkdir(exist_ok=True)
        watchers = (
            [Beside(), snapshot_callback(stage, tiny_data.store, tiny_data.split, folder), Beside()]
            if looked_at
            else []
        )
        machine = Machine("cpu", torch.device("cpu"), precision, LoaderSettings())
        fit(stage, data, folder, 0, machine, lambda _: None, stop=stop, watchers=watchers)
        if watchers:
            assert watchers[0].states == watchers[2].states
        return stage, folder

    return started


@pytest.fixture(scope="module")
def whole(start):
    """An uninterrupted fit that was looked at."""
    return start()


def after(step):
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= step


def files(folder):
    """What the looks have left, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "looks").iterdir())}


def same_bits(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# When, and what is left.


@pytest.mark.parametrize(("steps", "due"), [(8, DUE), (6, [0, 2, 3, 4, 6]), (3, [0, 1, 2, 3]), (1, [0, 1])])
def test_looks_are_at_the_quarters_and_the_ends(start, steps, due):
    _, folder = start(kind=Featureless, steps=steps)
    assert files(folder).keys() == {f"step-{step:06}.{kind}" for step in due for kind in ("json", "png")}


def test_figures_are_json_and_pictures_are_png(whole, tiny_data):
    stage, folder = whole
    assert files(folder).keys() == {f"step-{step:06}.{kind}" for step in DUE for kind in ("json", "png")}
    assert len(stage.looked_at) == len(DUE)
    assert all(torch.equal(images, stage.looked_at[0]) for images in stage.looked_at)
    losses = []
    for step in DUE:
        path = snapshot_path(folder, step)
        figures = json.loads(path.read_text())
        assert list(figures) == ["step", "validation_loss", "probe_miou"]
        assert figures["step"] == step
        assert 0 <= figures["probe_miou"] <= 1
        losses.append(figures["validation_loss"])
        with Image.open(picture_of(path)) as picture:
            assert picture.format == "PNG"
            picture.verify()
        with Image.open(picture_of(path)) as picture:
            assert picture.width == GAP + 8 * (CELL + GAP)  # image, three times noisy and denoised, sample
            assert 3 * (CELL + LINE) < picture.height < 4 * (CELL + LINE)
            pixels = np.asarray(picture.convert("RGB"))
        for row, tile in enumerate(tiles_to_show(tiny_data.store, tiny_data.split)):
            left, top = place(row, 0)
            image = Image.fromarray(stage.looked_at[0][row].permute(1, 2, 0).numpy())
            assert np.array_equal(stage.looked_at[0][row], tiny_data.store.images([tile], 32)[0])
            expected = np.asarray(image.resize((CELL, CELL), Image.Resampling.BOX))
            assert np.array_equal(pixels[top : top + CELL, left : left + CELL], expected)
    assert len(set(losses)) == len(DUE)
    assert min(losses) > 0
    figures, picture = last_snapshot(folder)
    assert (figures["step"], picture) == (8, folder / "looks" / "step-000008.png")


def test_the_last_look_is_that_of_the_latest_step(tmp_path):
    assert last_snapshot(tmp_path) is None
    for step in (750_000, 1_000_000, 250_000):
        path = snapshot_path(tmp_path, step)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"step": step}))
    assert last_snapshot(tmp_path) == ({"step": 1_000_000}, tmp_path / "looks" / "step-1000000.png")


def test_who_reads_looks_needs_no_torch():
    code = "import sys, tissuebench.diagnostics.snapshot_files, tissuebench.sweep.view.lookup; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


# What they change.


def test_looks_are_the_same_twice_and_after_an_interruption(start, whole):
    for stop in (after(3), after(1), after(2)):  # at steps 3, 4 and 6
        with pytest.raises(Interrupted):
            start("stopped", stop=stop)
    resumed, folder = start("stopped")
    assert len(resumed.looked_at) == 1
    assert files(folder) == files(whole[1])
    assert same_bits(resumed, whole[0])


def test_a_look_that_an_interruption_prevented_is_made_up_for(start, whole):
    with pytest.raises(Interrupted):
        start("killed", stop=after(6))
    for name in ("step-000006.json", "step-000006.png"):
        (whole[1].with_name("killed") / "looks" / name).unlink()
    resumed, folder = start("killed")
    assert len(resumed.looked_at) == 2
    assert files(folder) == files(whole[1])


def test_who_is_watched_learns_the_same_bits(start, whole):
    alone, folder = start(looked_at=False)
    assert not (folder / "looks").exists()
    assert same_bits(alone, whole[0])


def test_who_is_watched_learns_the_same_bits_with_batch_norm_dropout_and_bf16(start):
    settings = {"network": "matched", "precision": BF16, "steps": 3}
    (watched, folder), (alone, _) = start(**settings), start(looked_at=False, **settings)
    assert len(files(folder)) == 2 * 4
    assert same_bits(watched, alone)


# Who is looked at.


def test_a_stage_without_snapshot_is_left_alone(tiny_data, tmp_path):
    stage = TagClassification(make_task(), ClassifierSettings())
    assert snapshot_callback(stage, tiny_data.store, tiny_data.split, tmp_path) is None


def test_a_stage_may_have_nothing_to_show_or_no_features(start):
    _, folder = start(kind=Silent, steps=1)
    assert not (folder / "looks").exists()
    _, folder = start(kind=Featureless, steps=1)
    assert last_snapshot(folder)[0] == {"step": 1, "one_figure": 0.25}


def test_tiles_are_of_patients_who_are_not_trained_on(tiny_data):
    """And no label is touched to choose them."""
    store, split = TileStore(tiny_data.store.path), tiny_data.split
    store.withheld = None
    val = {slide.slide_id for slide in store.slides.values() if slide.patient_id in split.patients("val")}
    tiles = tiles_to_show(store, split)
    assert len(tiles) == len(set(tiles)) == 3
    assert {tile.slide_id for tile in tiles} == val
    only = replace(split, parts={"train": split.patients("train")})
    train = {slide.slide_id for slide in store.slides.values() if slide.patient_id in split.patients("train")}
    tiles = tiles_to_show(store, only)
    assert len(tiles) == 3
    assert len({tile.slide_id for tile in tiles} & train) == 3
    assert tiles_to_show(store, only) == tiles


def test_tiles_are_tissue(tmp_path):
    writer = StoreWriter(
        tmp_path / "s.zarr", StoreInfo("made", 1.0, 32, LabelCosts()), ClassMap(("a", "b"), ((1, 2, 3), (4, 5, 6)))
    )
    tissue = np.array([[1, 1, 0, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]], dtype=np.uint8)  # all, none, 1/4, none
    image, labels = np.zeros((32, 128, 3), dtype=np.uint8), np.full((32, 128), 255, dtype=np.uint8)
    writer.add("s", "p", (), image, labels, tissue)
    tiles = tiles_to_show(writer.seal(), Split("made", {"val": ("p",)}))
    assert [tile.x for tile in tiles] == [0, 64]


# The sheet.


def test_a_sheet_has_a_row_a_tile_and_a_column_a_title():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (2, 3, 3), dtype=np.uint8)  # rows, columns
    columns = {
        title: np.tile(colours[:, number, None, None], (1, 8, 8, 1)) for number, title in enumerate(("a", "b", "c"))
    }
    sheet = np.asarray(draw_pictures(["one", "another"], columns, "After step 3: loss 0.5"))
    assert sheet.shape[1] == GAP + 3 * (CELL + GAP)
    for row in range(2):
        for column in range(3):
            left, top = place(row, column)
            assert (sheet[top : top + CELL, left : left + CELL] == colours[row, column]).all()
    foot = sheet[place(2, 0)[1] - LINE + GAP :]
    assert (foot < 100).any()  # something is written there


def test_a_damaged_look_is_told_in_one_line(tmp_path):
    look = snapshot_path(tmp_path, 4)
    look.parent.mkdir()
    look.write_text("{")
    with pytest.raises(DataError, match=r"step-000004\.json: not the figures of a snapshot .* delete it"):
        last_snapshot(tmp_path)
