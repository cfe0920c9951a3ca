"""What a sweep will take: scheduling, bytes, and seconds from stored results or a probe."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from tests.benchmark.sweeps import run_inline
from tissuebench.plans.compute import ComputeSettings
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.estimate.estimate import about, estimate, makespan
from tissuebench.sweep.estimate.sizes import Sizes
from tissuebench.sweep.estimate.timing import Slots, Timer
from tissuebench.sweep.graph import build_graph
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import RECORD, task_folder
from tissuebench.training.build import build_method

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
INLINE = ComputeSettings(executor="inline", threads=1, gpus=())


@dataclass(frozen=True)
class Bare:
    needs: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("slots", "expected"),
    [(1, 30.0), (2, 16.0), (4, 14.0), (100, 14.0)],
)
def test_makespan_waits_for_what_is_needed_and_for_slots(slots, expected):
    tasks = {
        "a": Bare(), "b": Bare(("gone",)), "c": Bare(("a", "b")), "d": Bare(("c",)), "e": Bare(), "f": Bare(("a",)),
    }  # fmt: skip
    seconds = {"a": 4.0, "b": 4.0, "c": 5.0, "d": 5.0, "e": 7.0, "f": 5.0}
    assert makespan(tasks, seconds, slots) == expected


def test_makespan_of_nothing():
    assert makespan({}, {}, 4) == 0.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(7.24, "7.2 s"), (38.4, "38 s"), (1234, "21 min"), (9000, "2.5 h"), (3600 * 10, "10 h"), (86400 * 4, "4 days")],
)
def test_about(seconds, said):
    assert about(seconds) == said


def test_slots_are_those_of_the_executor():
    assert Slots.of(INLINE).count == 1
    local = Slots.of(ComputeSettings(slots=3, threads=2, gpus=()))
    assert (local.count, local.threads, local.gpus, local.is_here) == (3, 2, 0, True)
    slurm = ComputeSettings.model_validate(
        {"executor": "slurm", "slurm": {"nodes": 2, "gpus_per_node": 4, "max_jobs": 7, "cpus_per_gpu": 3}}
    )
    assert Slots.of(slurm) == Slots(7, 3, 8, 4, is_here=False)


def test_disk_is_what_is_then_written(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=2", "network.feature_variants=2", *FROZEN)
    graph = build_graph(bench.trials(plan, "supervised", "complementary"), bench.data, bench.home)
    disk = Sizes({"tiny": bench.data}).disk(graph.values(), 2)
    run_inline(graph, bench.home)
    folders = {kind: [task_folder(bench.home, kind, task.key) for task in graph.of_kind(kind)] for kind in TaskKind}
    written = {
        dtype: sum((path.parent / name).stat().st_size for path in paths for name in (path.name, "orientations.uint8"))
        for dtype in ("float16", "float32")
        for paths in ([path for folder in folders[TaskKind.FEATURES] for path in folder.glob(f"maps.{dtype}")],)
    }
    assert disk.features == written["float16"] > 0
    assert disk.windows == written["float32"] > 0  # every window is annotated
    weights = sum((folder / "fitted.pt").stat().st_size for folder in folders[TaskKind.TRIAL])
    assert disk.weights <= weights < 1.1 * disk.weights + 200_000
    method = build_method(graph.of_kind(TaskKind.TRIAL)[0].trial, bench.data)
    trained = sum(each.nbytes for each in method.parameters() if each.requires_grad)
    assert 0 < 2 * trained < disk.weights  # the encoder is frozen
    assert disk.checkpoints == disk.weights + 2 * 2 * trained  # two slots, two moments


def test_seconds_follow_stored_results_of_the_same_kind_only(bench):
    plan = bench.plan("seeds=[0, 1]", "budgets=['masks:2p']", "training.steps=2")
    trials = bench.trials(plan, "supervised", "complementary")
    graph = build_graph(trials, bench.data, bench.home)
    run_inline(build_graph(trials[:1], bench.data, bench.home), bench.home)
    store = ResultStore(results_folder(bench.home))
    (made,) = store.load()
    samples = made.compute["samples"]
    store.write(replace(made, seconds={"fit": 3.0 * samples, "evaluate": 7.0}))
    waiting = {key: task for key, task in graph.items() if key != trials[0].id}
    by_method = {task.trial.method: task for task in waiting.values()}

    def timer(compute=INLINE, like=trials[0]):
        return Timer(like, bench.data, Slots.of(compute), bench.home, Sizes({"tiny": bench.data}))

    stored = timer()
    assert stored.seconds(by_method["supervised"]) == 3.0 * samples + 7.0
    assert stored.seconds(by_method["complementary"]) == 3.0 * 2 * samples + 7.0  # two streams of tiles
    assert not stored.is_probed
    assert ("1 stored fit", "training of supervised") in stored.sources
    whole = estimate(waiting, {"tiny": bench.data}, INLINE, bench.home)
    assert whole.seconds == pytest.approx(3.0 * samples * (1 + 2 + 2) + 3 * 7.0)
    assert set(whole.sources) == {
        "training of complementary, training of supervised: 1 stored fit", "evaluation: 1 stored trial"
    }  # fmt: skip

    store.write(replace(made, environment={**made.environment, "threads": 64}))
    elsewhere = timer()
    assert 0 < elsewhere.seconds(by_method["supervised"]) < 60
    assert elsewhere.is_probed
    assert elsewhere.sources == {
        ("a few steps timed on random tiles", "training"),
        ("a few steps timed on random tiles", "evaluation"),
    }


def test_seconds_of_features_follow_stored_shards_of_the_same_kind(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", "training.steps=2", *FROZEN)
    graph = build_graph(bench.trials(plan, "supervised"), bench.data, bench.home)
    run_inline(graph, bench.home)
    rates = {"tiles": 0.5, "windows": 0.25}
    shards = {task.job.document["shard"]["of"]: task for task in graph.of_kind(TaskKind.FEATURES)}
    for of, task in shards.items():
        path = task_folder(bench.home, TaskKind.FEATURES, task.key) / RECORD
        record = json.loads(path.read_text())
        assert (record["of"], record["tiles"]) == (of, task.tiles)  # every window is annotated
        path.write_text(json.dumps({**record, "seconds": rates[of] * record["tiles"]}))
    (trial,) = (task.trial for task in graph.of_kind(TaskKind.TRIAL))
    timer = Timer(trial, bench.data, Slots.of(INLINE), bench.home, Sizes({"tiny": bench.data}))
    for of, task in shards.items():
        assert timer.seconds(task) == pytest.approx(rates[of] * task.tiles)
    assert timer.sources == {("1 stored shard", "features of tiles"), ("1 stored shard", "features of windows")}
    assert not timer.is_probed
    other = replace(trial, evaluation=trial.evaluation.model_copy(update={"window_px": 64}))
    elsewhere = Timer(other, bench.data, Slots.of(INLINE), bench.home, Sizes({"tiny": bench.data}))
    assert elsewhere.seconds(shards["windows"]) > 0
    assert elsewhere.is_probed  # windows of another size take another time


def test_a_probe_of_a_frozen_network_times_features_too(bench):
    plan = bench.plan("seeds=[0]", "budgets=['masks:2p']", *FROZEN)
    graph = build_graph(bench.trials(plan, "supervised"), bench.data, bench.home)
    probed = estimate(graph, {"tiny": bench.data}, INLINE, bench.home)
    assert probed.sources == ("evaluation, features, training: a few steps timed on random tiles",)
    assert 0 < probed.seconds < 60
    assert estimate({}, {"tiny": bench.data}, INLINE, bench.home).seconds == 0.0
