"""Features of windows: a score does not depend on whether it came from images or from features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmark.features.shards import CPU, FROZEN, written
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.store_writer import StoreWriter
from tissuebench.datasets.store.tile_store import StoreInfo
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, LabelCosts
from tissuebench.evaluation import stitching
from tissuebench.evaluation import window_features as module
from tissuebench.evaluation.evaluate import evaluate
from tissuebench.evaluation.stitching import Stitching
from tissuebench.evaluation.window_features import WindowFeatures, plan_windows, window_encoding
from tissuebench.features.records import hold_shard
from tissuebench.features.shards import FrozenEncoder
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.api.stage import Task
from tissuebench.plans.expand import PlannedData
from tissuebench.results.metrics import miou

SIZES = {"large": (131, 203), "small": (20, 30), "flat": (17, 150), "bare": (64, 64), "even": (128, 128)}
"""``bare`` has neither an annotation nor a diagnosis; of ``even`` only the upper half is annotated."""
COLOURS = ((240, 240, 240), (230, 150, 190), (110, 60, 160), (200, 60, 70))


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    classes = ClassMap(tuple("abcd"), COLOURS, {"A": ("c",), "B": ("d",)})
    writer = StoreWriter(
        tmp_path_factory.mktemp("painted") / "store.zarr", StoreInfo("toy", None, 32, LabelCosts()), classes
    )
    rng = np.random.default_rng(2)
    for name, (height, width) in SIZES.items():
        truth = rng.integers(0, 4, (height, width), dtype=np.uint8)
        image = np.array(COLOURS, dtype=np.uint8)[truth] - rng.integers(0, 9, (height, width, 3), dtype=np.uint8)
        tissue = np.zeros((-(-height // 16), -(-width // 16)), dtype=np.uint8)
        tissue[:, 1:] = 1
        if name == "bare":
            truth[:] = IGNORE_LABEL
        elif name == "even":
            truth[64:] = IGNORE_LABEL
        writer.add(name, name, ("A",) if name == "large" else (), image, truth, tissue)
    return PlannedData(writer.seal(), Split("toy", {"test": tuple(sorted(SIZES))}))


def planned(plan, data):
    encoder = FrozenEncoder(plan.network, len(data.store.class_map))
    return plan_windows(encoder, plan.evaluation, data.store, data.split)


def features_of(plan, data, folder=None):
    """The plan of all windows, their shards, in ``folder`` or in memory, and these as one."""
    given = (plan.network, plan.evaluation, data.store, data.split)
    shards, made = planned(plan, data), []
    for shard in shards:
        encoding = window_encoding(shard.identity, *given, CPU, "32-true")
        made.append(hold_shard(encoding, print) if folder is None else written(encoding, folder / shard.key))
    how = Stitching.of(plan.evaluation, data.store.info.tile_px, CPU, "32-true")
    return shards, made, WindowFeatures(made, how)


def method_of(plan, data, name="supervised", **settings):
    torch.manual_seed(0)
    kind = find_method(name)
    task = Task(data.store.class_map, plan.network, plan.training, data.store.info.tile_px)
    return kind(task, kind.Config(**settings))


def counts(method, plan, data, features=None):
    view = LabelView.for_evaluation(data.store, data.split, plan.evaluation.part)
    return evaluate(method, data.store, view, plan.evaluation, CPU, "32-true", features=features)


def same(one, other):
    assert [row.slide.slide_id for row in one] == [row.slide.slide_id for row in other]
    for name in ("counts", "boundaries", "calibration", "areas"):
        for row, twin in zip(one, other, strict=True):
            assert np.array_equal(getattr(row, name), getattr(twin, name)), (name, row.slide.slide_id)


def alike(one, other):
    """The same up to float32's last digits."""
    a, b = (np.stack([row.counts for row in rows]) for rows in (one, other))
    assert np.abs(a - b).sum() <= 1e-3 * a.sum()
    assert abs(miou(a.sum(0)) - miou(b.sum(0))) <= 1e-3
    for row, twin in zip(one, other, strict=True):
        np.testing.assert_allclose(row.calibration.sum(0), twin.calibration.sum(0), rtol=1e-4)


@pytest.mark.parametrize(
    ("window", "overlap", "tta", "panel_px"),
    [
        (None, 0.25, "none", None),
        (32, 0.0, "flips", 48),
        (48, 0.3, "dihedral", 64),
        (64, 0.5, "none", 70),
        (128, 0.11, "flips", None),
        (512, 0.25, "dihedral", None),
    ],
)
def test_counts_are_those_of_images(bench, painted, monkeypatch, window, overlap, tta, panel_px):
    evaluation = (f"evaluation.window_px={window or 'null'}", f"evaluation.overlap={overlap}", f"evaluation.tta={tta}")
    plan = bench.plan(*FROZEN, *evaluation)
    if panel_px:  # windows of 32 px and four classes
        monkeypatch.setattr(stitching, "_PANEL_NUMBERS", 4 * (window or 32) * panel_px)
    read, real = [], module.FeatureWindows.views
    monkeypatch.setattr(module.FeatureWindows, "views", lambda own, p, s: (read.extend(p), real(own, p, s))[1])
    _, made, features = features_of(plan, painted)
    method = method_of(plan, painted)
    from_images, from_features = (counts(method, plan, painted, given) for given in (None, features))
    if panel_px:  # windows of the second panel are encoded in other batches than without features: last digits differ
        alike(from_images, from_features)
    else:
        same(from_images, from_features)
    assert sum(row.counts.sum() for row in from_images) == 131 * 203 + 20 * 30 + 17 * 150 + 64 * 128
    records = sum(len(block.places) for shard in made for block in shard.blocks)
    assert len(read) > records if panel_px else len(read) == records  # across two panels: one record, read twice


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("complementary", {}),
        ("mean_teacher", {}),
        ("anatomical_contrast", {"global_distill": False}),
        ("multilayer_pseudo", {"gate": 0.1}),
        ("diffusion", {}),
    ],
)
def test_methods_predict_from_features_what_they_predict_from_images(bench, painted, name, settings):
    plan = bench.plan(*FROZEN, "evaluation.window_px=48")
    assert find_method(name).can_predict_features(find_method(name).Config(**settings))
    *_, features = features_of(plan, painted)
    method = method_of(plan, painted, name, **settings)
    same(counts(method, plan, painted), counts(method, plan, painted, features))


def test_on_disk_and_in_memory_are_the_same_and_no_more_than_was_said(bench, painted, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MIN_SHARD_PX", 1 << 14)
    plan = bench.plan(*FROZEN, "evaluation.tta=flips")
    shards, folders, on_disk = features_of(plan, painted, tmp_path)
    assert [slide for shard in shards for slide in shard.slides] == list(painted.store.slides)  # contiguous groups
    assert [shard.number for shard in shards] == list(range(1, len(shards) + 1))
    assert len(shards) > 1
    method = method_of(plan, painted)
    *_, in_memory = features_of(plan, painted)
    same(*(counts(method, plan, painted, features) for features in (on_disk, in_memory)))
    for shard, folder in zip(shards, folders, strict=True):
        assert size_of(folder) <= shard.n_bytes
    whole = [shard for shard in shards if not {"even", "bare"} & set(shard.slides)]
    assert whole  # all windows are predicted, and those of slides that are no multiple of 32 px take more
    for shard in whole:
        assert size_of(tmp_path / shard.key) == shard.n_bytes


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json")


def test_planning_reads_no_mask(bench, painted, monkeypatch):
    def refuse(*args):
        raise AssertionError("a mask was read")

    for name in ("mask", "masks"):
        monkeypatch.setattr(type(painted.store.withheld), name, refuse)
    monkeypatch.setattr(type(painted.store), "tissue", refuse)
    plan = bench.plan(*FROZEN)
    (shard,) = planned(plan, painted)
    with pytest.raises(AssertionError, match="a mask was read"):
        window_encoding(shard.identity, plan.network, plan.evaluation, painted.store, painted.split, CPU, "32-true")


def test_a_key_covers_what_the_features_depend_on_and_nothing_else(bench, painted):
    encoders = {}

    def keys(*overrides):
        plan = bench.plan(*FROZEN, *overrides)
        name = plan.network.model_dump_json()
        encoder = encoders.setdefault(name, None) or FrozenEncoder(plan.network, 4)
        encoders[name] = encoder
        return [shard.key for shard in plan_windows(encoder, plan.evaluation, painted.store, painted.split)]

    changes = {
        "evaluation.overlap=0": True,
        "evaluation.window_px=64": True,
        "evaluation.window_px=32": False,  # the size of a tile, which is the default
        "evaluation.tta=flips": True,
        "network.decoder=unet": True,
        "evaluation.boundary_um=2": False,
        "network.decoder_channels=64": False,
        "network.feature_variants=2": False,
        "network.feature_dtype=float32": False,
        "augmentation.hue=0": False,
    }
    plain = keys()
    assert {change: keys(change) != plain for change in changes} == changes


def test_thousands_of_slides_make_no_more_than_64_groups_of_similar_area():
    from tissuebench.datasets.store.tile_store import SlideInfo

    rng = np.random.default_rng(0)
    slides = [SlideInfo(str(n), "", *rng.integers(1000, 9000, 2).tolist(), 0.5) for n in range(3000)]
    work = [slide.height * slide.width for slide in slides]
    groups = list(module._groups(slides, work))
    assert len(groups) == 64
    assert [slide for group in groups for slide in group] == slides
    areas = [sum(slide.height * slide.width for slide in group) for group in groups]
    assert max(areas) < 1.1 * min(areas)
    assert [len(group) for group in module._groups(slides[:3], [1, 1, 1])] == [3]
