from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer

from tissuebench.datasets.labels.draw_budget import draw_budget
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.augment import AugmentSettings, orient_each
from tissuebench.datasets.loading.datamodule import LoaderSettings, StepDataset, StepLoader, StepSampler, TileDataModule
from tissuebench.datasets.loading.sampling import draw, stream_tree
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.store.tiling import grid
from tissuebench.datasets.types import Stream, Supervision, Tile, TileBatch
from tissuebench.errors import ConfigError

SEED = 12
MASKS, DIAGNOSED = Stream(Supervision.MASKS, 4), Stream(Supervision.DIAGNOSIS, 3)
STREAMS = {"annotated": MASKS, "diagnosed": DIAGNOSED, "tagged": Stream(Supervision.TAGS, 2)}
STREAMS["any"] = Stream(Supervision.NONE, 2)
ALL_KINDS = frozenset({Supervision.MASKS, Supervision.TAGS, Supervision.DIAGNOSIS})


def view_of(store, split, spec="masks:3p", kinds=ALL_KINDS):
    return LabelView.for_training(store, split, draw_budget(store, split, spec, 0), kinds)


def dataset_of(store, split, streams=STREAMS, seed=SEED):
    return StepDataset(store, view_of(store, split), streams, seed, None)


def digest(batch: TileBatch) -> str:
    found = hashlib.sha256(str(batch.step).encode())
    for tensor in (batch.images, batch.masks, batch.tags, batch.excluded):
        found.update(b"none" if tensor is None else str(tensor.dtype).encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def digests(item) -> dict[str, str]:
    return {name: digest(batch) for name, batch in item.items()}


def elsewhere(tiny_data, *arguments: str, **environment: str) -> str:
    """What this file prints as a program, see its end."""
    command = [sys.executable, "-P", __file__, arguments[0], str(tiny_data.home / "data" / "tiny"), *arguments[1:]]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


@pytest.fixture(scope="module")
def dataset(tiny_data):
    return dataset_of(tiny_data.store, tiny_data.split)


@pytest.fixture
def view(tiny_data):
    return view_of(tiny_data.store, tiny_data.split)


@pytest.fixture
def where(tiny_data):
    """From the pixels of a training tile to the tile: noise makes every tile's pixels its own."""
    found = {}
    for slide in tiny_data.store.slides.values():
        for tile in grid(slide, 32):
            found[tiny_data.store.image(tile.slide_id, tile.y, tile.x, 32, 32).tobytes()] = tile
    return lambda images: [found[image.numpy().tobytes()] for image in images]


def test_a_step_is_a_pure_function_of_seed_and_step(tiny_data, dataset):
    forward = [digests(dataset[step]) for step in range(6)]
    fresh = dataset_of(tiny_data.store, tiny_data.split)
    for step in (5, 0, 3, 3, 1, 4, 2):
        np.random.seed(step)  # noqa: NPY002
        torch.manual_seed(step)
        assert digests(fresh[step]) == forward[step]
    assert len({step["annotated"] for step in forward}) == 6
    assert digests(dataset_of(tiny_data.store, tiny_data.split, seed=13)[0]) != forward[0]


@pytest.mark.parametrize("hash_seed", ["0", "321"])
def test_a_step_is_the_same_in_another_process(tiny_data, dataset, hash_seed):
    found = elsewhere(tiny_data, "draw", PYTHONHASHSEED=hash_seed)
    assert found.split() == [value for step in (4, 1) for value in digests(dataset[step]).values()]


def test_the_annotated_stream_is_the_same_whoever_stands_beside_it(tiny_data, dataset):
    """The paired design: methods that differ in their other streams see the same annotated tiles."""
    alone = dataset_of(tiny_data.store, tiny_data.split, {"annotated": MASKS})
    last = dataset_of(tiny_data.store, tiny_data.split, {"diagnosed": DIAGNOSED, "annotated": MASKS})
    larger = {"diagnosed": Stream(Supervision.DIAGNOSIS, 9), "annotated": MASKS}
    masks_only = StepDataset(
        tiny_data.store,
        view_of(tiny_data.store, tiny_data.split, kinds=frozenset({Supervision.MASKS})),
        {"annotated": MASKS},
        SEED,
        None,
    )
    for step in range(5):
        expected = digest(dataset[step]["annotated"])
        others = (alone, last, dataset_of(tiny_data.store, tiny_data.split, larger), masks_only)
        assert {digest(other[step]["annotated"]) for other in others} == {expected}


def test_what_each_stream_carries(dataset):
    batch = dataset[0]
    carried = {
        name: {label for label in ("masks", "tags", "excluded") if getattr(stream, label) is not None}
        for name, stream in batch.items()
    }
    assert carried == {"annotated": {"masks"}, "diagnosed": {"excluded"}, "tagged": {"tags"}, "any": set()}
    annotated, diagnosed, tagged = batch["annotated"], batch["diagnosed"], batch["tagged"]
    assert (annotated.images.shape, annotated.images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert (annotated.masks.shape, annotated.masks.dtype) == ((4, 32, 32), torch.uint8)
    assert (diagnosed.excluded.shape, diagnosed.excluded.dtype) == ((3, 4), torch.bool)
    assert (tagged.tags.shape, tagged.tags.dtype) == ((2, 4), torch.bool)


def test_labels_belong_to_their_tiles(tiny_data, dataset, where):
    labels = tiny_data.store.withheld
    for step in range(8):
        item = dataset[step]
        for tile, mask in zip(where(item["annotated"].images), item["annotated"].masks, strict=True):
            assert np.array_equal(labels.mask(tile.slide_id, tile.y, tile.x, 32, 32), mask.numpy())
        for tile, excluded in zip(where(item["diagnosed"].images), item["diagnosed"].excluded, strict=True):
            own = labels.diagnosis(tile.slide_id)[0]
            assert excluded.tolist() == [False, False, own == "B", own == "A"]
        for tile, tags in zip(where(item["tagged"].images), item["tagged"].tags, strict=True):
            present = set(np.unique(labels.mask(tile.slide_id, tile.y, tile.x, 32, 32)).tolist())
            assert set(np.flatnonzero(tags).tolist()) == present


def test_only_bought_tiles_are_in_the_annotated_stream(tiny_data, dataset, view, where):
    bought = {slide.slide_id for slide in view.mask_slides}
    train = {slide.slide_id for slide in view.slides}
    seen = defaultdict(set)
    for step in range(150):
        for name, batch in dataset[step].items():
            seen[name] |= {tile.slide_id for tile in where(batch.images)}
    assert seen["annotated"] == seen["tagged"] == bought
    assert seen["diagnosed"] == seen["any"] == train
    assert len(bought) == 3 < len(train) == 7


def drawn(tiny_data, view, stream, n=6000):
    tree = stream_tree("s", stream, tiny_data.store, view, 32, 0)
    rng = np.random.default_rng(0)
    return tree, Counter(draw(tree, rng) for _ in range(n))


def test_classes_are_drawn_equally_often(tiny_data, view):
    tree, counts = drawn(tiny_data, view, MASKS)
    shown = {tile: np.flatnonzero(view.tags(tile, 32)) for slide in view.mask_slides for tile in grid(slide, 32)}
    assert len(tree) == 4
    for class_id, group in enumerate(tree):
        assert set(group) == {tile for tile, classes in shown.items() if class_id in classes}
    # a tile's share: a quarter from each class that it shows, divided by how many tiles show that class
    for tile, classes in shown.items():
        expected = sum(0.25 / len(tree[class_id]) for class_id in classes)
        assert counts[tile] / 6000 == pytest.approx(expected, abs=0.02)


def test_excluded_classes_and_cases_are_drawn_equally_often(tiny_data, view):
    """Of seven training cases four have diagnosis A: each of those is drawn 1/8 of the time, each B 1/6."""
    _, counts = drawn(tiny_data, view, DIAGNOSED)
    cases = Counter()
    for tile, count in counts.items():
        cases[tile.slide_id] += count
    for slide_id, count in cases.items():
        expected = {"A": 1 / 2 / 4, "B": 1 / 2 / 3}[view.diagnosis(slide_id)[0]]
        assert count / 6000 == pytest.approx(expected, abs=0.02)


def test_cases_are_drawn_equally_often_without_labels(tiny_data, view):
    _, counts = drawn(tiny_data, view, Stream(Supervision.NONE, 1))
    cases = Counter()
    for tile, count in counts.items():
        cases[tile.slide_id] += count
    assert len(cases) == 7
    assert all(count / 6000 == pytest.approx(1 / 7, abs=0.02) for count in cases.values())


def test_weak_streams_draw_tissue(tiny_data, view, monkeypatch):
    _, counts = drawn(tiny_data, view, DIAGNOSED)
    for slide in view.slides:
        tissue = tiny_data.store.tissue(slide.slide_id)  # at 1/16: a tile of 32 px is 2 x 2
        shares = {tile: tissue[tile.y // 16 :, tile.x // 16 :][:2, :2].mean(dtype=float) for tile in grid(slide, 32)}
        expected = {tile for tile, share in shares.items() if share >= 0.25}
        assert {tile for tile in counts if tile.slide_id == slide.slide_id} == (expected or set(shares))


def test_unbalanced_is_uniform_over_tiles(tiny_data, view):
    tree, counts = drawn(tiny_data, view, replace(MASKS, balanced=False))
    assert all(isinstance(tile, Tile) for tile in tree)
    assert len(tree) == 3 * 6
    assert all(count / 6000 == pytest.approx(1 / 18, abs=0.015) for count in counts.values())


def test_cases_that_exclude_nothing_are_left_out(tiny_data, view, monkeypatch):
    silent = next(slide.slide_id for slide in view.slides if view.diagnosis(slide.slide_id) == ("A",))
    diagnosis = view.diagnosis
    monkeypatch.setattr(view, "_excluded", {})  # what was asked for before
    monkeypatch.setattr(view, "diagnosis", lambda slide_id: () if slide_id == silent else diagnosis(slide_id))
    _, counts = drawn(tiny_data, view, DIAGNOSED, 500)
    assert silent not in {tile.slide_id for tile in counts}
    monkeypatch.setattr(view, "_excluded", {})
    monkeypatch.setattr(view, "diagnosis", lambda _: ())
    with pytest.raises(ConfigError, match=r"stream 's' .*has no tile"):
        stream_tree("s", DIAGNOSED, tiny_data.store, view, 32, 0)


@settings(max_examples=50)
@given(st.recursive(st.integers(0, 50), lambda branch: st.lists(branch, min_size=1, max_size=4), max_leaves=30))
def test_a_draw_is_a_leaf(nested):
    def tree(node):
        return Tile("S", node, 0) if isinstance(node, int) else tuple(tree(branch) for branch in node)

    def leaves(node):
        return {node} if isinstance(node, int) else set().union(*(leaves(branch) for branch in node))

    rng = np.random.default_rng(0)
    assert {draw(tree(nested), rng).y for _ in range(20)} <= leaves(nested)


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_resumed_fit_goes_on_with_the_next_step(done, steps):
    whole, rest = StepSampler(0, steps), StepSampler(done, steps)
    assert [*whole][done:] == [*rest]
    assert len(rest) == len([*rest])


@settings(max_examples=30)
@given(st.data())
def test_the_parts_of_the_processes_are_the_whole_in_order(dataset, data):
    """And what each process does to its part is what one process does to all of it."""
    world_size, step = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 50))
    parts = [dataset.shard(rank, world_size)[step] for rank in range(world_size)]
    for name, whole in dataset[step].items():
        mine = [part[name] for part in parts]
        assert {part.total for part in mine} == {STREAMS[name].batch_size} == {whole.total}
        assert [part.offset for part in mine] == [r * whole.total // world_size for r in range(world_size)]
        assert all(len(part.images) for part in mine)
        for label in ("images", "masks", "tags", "excluded"):
            if getattr(whole, label) is not None:
                joined = torch.cat([getattr(part, label) for part in mine])
                assert torch.equal(joined, getattr(whole, label))


def test_cached_features_are_shared_out_too(tiny_data):
    banked = StepDataset(tiny_data.store, view_of(tiny_data.store, tiny_data.split), STREAMS, SEED, _Bank())
    whole, parts = banked[3]["annotated"], [banked.shard(rank, 2)[3]["annotated"] for rank in range(2)]
    assert torch.equal(torch.cat([part.features[0] for part in parts]), whole.features[0])
    assert torch.equal(torch.cat([part.masks for part in parts]), whole.masks)


def test_more_processes_than_tiles_are_refused(dataset):
    with pytest.raises(
        ConfigError, match=r"^stream 'tagged': a batch size of 2 cannot be shared by 3 processes; [^\n]*$"
    ):
        dataset.shard(0, 3)
    assert dataset.shard(0, 2)[0]["tagged"].offset == 0


class _Trainer:
    def __init__(self, global_step, global_rank=0, world_size=1):
        self.global_step, self.global_rank, self.world_size = global_step, global_rank, world_size


def module_of(tiny_data, augmentation, steps=5, **options):
    view = view_of(tiny_data.store, tiny_data.split)
    return TileDataModule(tiny_data.store, view, STREAMS, SEED, steps, augmentation, **options)


@pytest.mark.parametrize("done", [0, 3])
def test_the_loader_gives_the_steps_that_are_left(tiny_data, dataset, done):
    module = module_of(tiny_data, AugmentSettings())
    module.trainer = _Trainer(done) if done else None
    batches = list(module.train_dataloader())
    assert [digests(batch) for batch in batches] == [digests(dataset[step]) for step in range(done, 5)]


@pytest.mark.parametrize("start_method", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_worker_processes_change_nothing_and_what_they_prepared_is_not_over(tiny_data, dataset, start_method):
    settings = LoaderSettings(num_workers=2, start_method=start_method)
    loader = module_of(tiny_data, AugmentSettings(), steps=6, loader=settings).train_dataloader()
    for step, batch in zip(range(3), loader, strict=False):
        assert digests(batch) == digests(dataset[step])
    # zip asked for steps 0 to 2; the workers have prepared more
    assert loader.state_dict() == {"step": 3}
    again = module_of(tiny_data, AugmentSettings(), steps=6, loader=settings).train_dataloader()
    again.load_state_dict(loader.state_dict())
    assert [digests(batch) for batch in again] == [digests(dataset[step]) for step in range(3, 6)]
    assert again.state_dict() == {"step": 6}


@given(st.data())
def test_a_loader_goes_on_where_its_state_says(data):
    """Interrupted any number of times, it hands out each step once, in order, and is as long as before."""

    class Steps:
        def __getitem__(self, step):
            return step

    steps = data.draw(st.integers(0, 30))
    seen, state = [], {"step": 0}
    while len(seen) < steps:
        loader = StepLoader(Steps(), 0, steps, LoaderSettings())
        loader.load_state_dict(json.loads(json.dumps(state)))
        assert len(loader) == steps
        for _, step in zip(range(data.draw(st.integers(1, steps))), loader, strict=False):
            seen.append(step)
        state = loader.state_dict()
    assert seen == list(range(steps))


def test_the_step_of_the_trainer_is_the_one_truth(tiny_data):
    """Batches that Lightning holds back are not over before the optimiser's step is."""
    module = module_of(tiny_data, AugmentSettings())
    module.trainer = _Trainer(1)
    loader = module.train_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict() == module.state_dict() == {"step": 1}
    module.trainer.global_step = 3
    assert loader.state_dict() == module.state_dict() == {"step": 3}
    assert len(loader) == 5
    fresh = module_of(tiny_data, AugmentSettings())
    fresh.load_state_dict(module.state_dict())
    assert fresh.state_dict() == {"step": 3}
    assert next(iter(fresh.train_dataloader()))["annotated"].step == 3


def test_a_process_gets_its_part_from_the_trainer(tiny_data, dataset):
    module = module_of(tiny_data, AugmentSettings())
    module.trainer = _Trainer(2, global_rank=1, world_size=2)
    assert digests(next(iter(module.train_dataloader()))) == digests(dataset.shard(1, 2)[2])
    module.trainer = _Trainer(0, world_size=3)
    with pytest.raises(ConfigError, match="cannot be shared by 3 processes"):
        module.train_dataloader()


@pytest.mark.parametrize("stop", [1, 2, 5])
@pytest.mark.parametrize("workers", ["0", "2 fork"])
def test_a_resumed_fit_sees_what_an_uninterrupted_one_sees(tiny_data, tmp_path, workers, stop, recwarn):
    whole = fit_and_resume(tiny_data.store, tiny_data.split, workers, 1, stop, tmp_path)
    assert len(whole["whole"]) == FIT_STEPS
    assert whole["resumed"] == whole["whole"][stop:]
    assert len({json.dumps(step) for step in whole["whole"]}) == FIT_STEPS
    assert not [str(warning.message) for warning in recwarn if "not resumable" in str(warning.message)]


@pytest.mark.parametrize(
    "workers", ["0", pytest.param("2 fork", marks=pytest.mark.slow), pytest.param("2 spawn", marks=pytest.mark.slow)]
)
def test_two_processes_see_together_what_one_sees_and_resume_there(tiny_data, tmp_path, workers):
    """Real processes over gloo: parts of a step, augmented, are the whole step of one process, tile for tile."""
    alone = fit_and_resume(tiny_data.store, tiny_data.split, "0", 1, 2, tmp_path / "alone")
    elsewhere(tiny_data, "fit", workers, str(tmp_path), PYTHONHASHSEED="7", GLOO_SOCKET_IFNAME="lo")
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for run in ("whole", "resumed"):
        together = [
            {name: first[name] + second[name] for name in first}
            for first, second in zip(ranks[0][run], ranks[1][run], strict=True)
        ]
        assert together == alone[run]
    assert all(rank["resumed"] == rank["whole"][2:] for rank in ranks)


def test_masks_turn_with_their_images(tiny_data, dataset):
    """Colours are far apart, so the class of each pixel can be read off the augmented image itself."""
    module = module_of(tiny_data, AugmentSettings(color=0, hue=0))
    colours = torch.tensor(tiny_data.store.class_map.colors).float() / 255
    turned_ones = 0
    for step in range(6):
        batch = module.on_after_batch_transfer(dataset[step], 0)["annotated"]
        distance = (batch.images[:, None] - colours[None, :, :, None, None]).square().sum(dim=2)
        assert torch.equal(distance.argmin(dim=1), batch.masks)
        turned_ones += not torch.equal(batch.masks, dataset[step]["annotated"].masks)
    assert turned_ones > 0


def test_augmentation_depends_on_seed_stream_and_step_alone(tiny_data, dataset):
    module = module_of(tiny_data, AugmentSettings())
    first = {step: digests(module.on_after_batch_transfer(dataset[step], 0)) for step in (0, 1)}
    torch.manual_seed(4)
    assert {step: digests(module.on_after_batch_transfer(dataset[step], 0)) for step in (1, 0)} == first
    moved = replace(dataset[0]["annotated"], step=9)
    assert digest(replace(module._augmented("annotated", moved), step=0)) != first[0]["annotated"]
    parts = [dataset.shard(rank, 2)[0]["annotated"] for rank in range(2)]
    images = torch.cat([module._augmented("annotated", part).images for part in parts])
    assert torch.equal(images, module._augmented("annotated", dataset[0]["annotated"]).images)
    assert digest(module._augmented("other", dataset[0]["annotated"])) != first[0]["annotated"]
    assert not torch.equal(dataset[0]["any"].images.float() / 255, module._augmented("any", dataset[0]["any"]).images)


class _Bank:
    """Features that tell which tile and variant they came from; variant v was turned by v."""

    n_variants = 4

    def read(self, tiles, variants):
        marks = torch.tensor([[tile.y, tile.x, variant] for tile, variant in zip(tiles, variants, strict=True)])
        return (marks[:, :, None, None].float(),), torch.tensor(variants)


def test_cached_features_stand_in_for_images_and_masks_turn_with_them(tiny_data, dataset, where):
    banked = StepDataset(tiny_data.store, view_of(tiny_data.store, tiny_data.split), STREAMS, SEED, _Bank())
    variants_seen = set()
    for step in range(6):
        batch, plain = banked[step]["annotated"], dataset[step]["annotated"]
        assert batch.images is None
        marks = batch.features[0][:, :, 0, 0].long()
        tiles = where(plain.images)
        assert marks[:, :2].tolist() == [[tile.y, tile.x] for tile in tiles]  # the same tiles as from images
        assert torch.equal(batch.masks, orient_each(plain.masks, marks[:, 2]))
        variants_seen |= set(marks[:, 2].tolist())
    assert variants_seen == {0, 1, 2, 3}
    module = module_of(tiny_data, AugmentSettings(), features=_Bank())
    on_device = module._augmented("annotated", batch)
    assert on_device.features is batch.features
    assert on_device.masks.dtype == torch.int64
    assert torch.equal(on_device.masks, batch.masks)


def test_tags_of_all_tiles_of_a_stream(tiny_data, dataset, where):
    tiles = dataset.tiles("tagged")
    assert tiles == sorted(set(tiles), key=lambda tile: (tile.slide_id, tile.y, tile.x))
    found = dataset.tags("tagged")
    assert (found.shape, found.dtype) == ((len(tiles), 4), torch.bool)
    known = dict(zip(tiles, found, strict=True))
    for step in range(5):
        drawn_there = dataset[step]["tagged"]
        for tile, tags in zip(where(drawn_there.images), drawn_there.tags, strict=True):
            assert torch.equal(known[tile], tags)
    assert dataset.all_tags().keys() == {"tagged"}
    assert dataset_of(tiny_data.store, tiny_data.split, {"annotated": MASKS}).all_tags() == {}


def test_tiles_to_annotate_come_with_their_pixels_where_features_stand_in(tiny_data, where):
    view = view_of(tiny_data.store, tiny_data.split)
    banked = StepDataset(tiny_data.store, view, STREAMS, SEED, _Bank())
    tiles = banked.tiles("tagged")[3:7]
    batch = banked.load("tagged", tiles)
    assert where(batch.images) == tiles
    assert batch.inputs is batch.features
    assert batch.features[0][:, :, 0, 0].tolist() == [[tile.y, tile.x, 0] for tile in tiles]  # as they are
    assert torch.equal(batch.tags, torch.from_numpy(view.tags_of(tiles)))
    plain = dataset_of(tiny_data.store, tiny_data.split).load("tagged", tiles)
    assert torch.equal(plain.images, batch.images)
    assert plain.inputs is plain.images
    assert banked[0]["tagged"].images is None


FIT_STEPS = 6
EVERYTHING = AugmentSettings(color=0.3, hue=0.1, scale=0.3, blur=1, stain=0.1)


class _Recorder(LightningModule):
    """A network of one number, and what it was shown: by step and stream, a digest of each sample."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append({name: self._samples(one) for name, one in batch.items()})
        return (self.weight - 1).square().sum()

    @staticmethod
    def _samples(batch):
        tensors = [t for t in (batch.images, batch.masks, batch.tags, batch.excluded) if t is not None]
        return [
            hashlib.sha256(b"".join(t.numpy().tobytes() for t in one)).hexdigest() for one in zip(*tensors, strict=True)
        ]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _SaveAt(Callback):
    """Writes a checkpoint in the middle, while batches are being prepared, and lets the fit go on."""

    def __init__(self, step, path):
        self._step, self._path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self._step:
            trainer.save_checkpoint(self._path)


def fit_and_resume(store, split, workers, processes, stop, folder):
    """What an uninterrupted fit saw, and what one saw that went on from its checkpoint of step ``stop``."""
    count, _, start_method = workers.partition(" ")
    settings = LoaderSettings(int(count), start_method=start_method or "spawn")
    folder.mkdir(exist_ok=True)
    checkpoint = folder / "middle.ckpt"
    seen = {}
    for run in ("whole", "resumed"):
        data = TileDataModule(store, view_of(store, split), STREAMS, SEED, FIT_STEPS, EVERYTHING, loader=settings)
        model = _Recorder()
        trainer = Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            max_steps=FIT_STEPS,
            max_epochs=-1,
            callbacks=[_SaveAt(stop, checkpoint)] if run == "whole" else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(model, data, ckpt_path=None if run == "whole" else checkpoint, weights_only=True)
        assert trainer.global_step == FIT_STEPS
        assert trainer.world_size == processes
        if run == "resumed":
            assert data.state_dict() == {"step": FIT_STEPS}
        seen[run] = model.seen
    state = torch.load(checkpoint, weights_only=True)
    assert state["TileDataModule"] == state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0] == {"step": stop}
    return seen


def main(task, folder, *options):
    """What another process draws; what two processes see in a fit (Lightning starts this program a second time)."""
    store, split = TileStore(Path(folder) / "store.zarr"), Split.read(Path(folder) / "split.json")
    if task == "draw":
        drawn_there = dataset_of(store, split)
        print(*(value for step in (4, 1) for value in digests(drawn_there[step]).values()))
        return
    workers, results = options
    seen = fit_and_resume(store, split, workers, 2, 2, Path(results))
    (Path(results) / f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
