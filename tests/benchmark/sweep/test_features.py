"""Features in a sweep: the same scores wherever they are kept, and no more of them than are needed."""

from __future__ import annotations

import shutil

import numpy as np

from tests.benchmark.features.shards import FROZEN
from tests.benchmark.features.test_tiles import OnTheFly
from tissuebench.features import tiles as tiles_module
from tissuebench.methods.networks.encoder import ImageEncoder
from tissuebench.results.metrics import miou
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep import run_task as tasks
from tissuebench.sweep.feature_choice import choose_feature_cache, sizes_of_features
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.failures import read_failure

SMALL = (*FROZEN, "seeds=[0]", "budgets=['masks:3p']", "training.steps=4", "training.batch_size=4")


def result(home, trial):
    return ResultStore(results_folder(home)).load([trial.id])[0]


def same(one, other):
    for name in ("counts", "boundaries", "calibration", "areas"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_trial_on_cached_features_scores_as_one_on_features_computed_on_the_fly(bench, tmp_path, monkeypatch):
    plan = bench.plan(*FROZEN, "seeds=[0]", "budgets=['masks:3p']", "training.steps=40", "training.batch_size=4")
    trials = bench.trials(plan, "supervised", "complementary")
    bench.run(trials)
    elsewhere = bench.elsewhere(tmp_path / "fly")
    on_the_fly = OnTheFly(plan, bench.data.store, bench.data.split)
    monkeypatch.setattr(tasks, "tile_features", lambda *args: on_the_fly)
    monkeypatch.setattr(tasks, "window_features", lambda *args: None)
    bench.run(trials, elsewhere)
    for trial in trials:
        one, other = (result(home, trial) for home in (bench.home, elsewhere))
        same(one, other)
        assert miou(one.counts.sum(axis=0)) > 0.2


def test_in_memory_and_on_disk_are_one_trial_with_one_result(bench, tmp_path):
    (on_disk,) = bench.trials(bench.plan(*SMALL, "network.feature_cache=disk"), "supervised")
    (in_memory,) = bench.trials(bench.plan(*SMALL, "network.feature_cache=memory"), "supervised")
    (open_choice,) = bench.trials(bench.plan(*SMALL), "supervised")
    assert on_disk.id == in_memory.id == open_choice.id
    summary = bench.run([in_memory], elsewhere := bench.elsewhere(tmp_path / "memory"))
    assert len(summary.done) == 1
    assert not (elsewhere / "runs" / "features").exists()
    bench.run([on_disk])
    same(*(result(home, on_disk) for home in (bench.home, elsewhere)))


def test_features_in_memory_are_computed_once_for_all_tasks_of_a_process(bench, monkeypatch):
    plan = bench.plan(*SMALL, "network.feature_cache=memory", "seeds=[0,1]")
    encoded, real = [], ImageEncoder.encode

    def encode(own, images, *args):
        if not images.is_meta:
            encoded.append(len(images))
        return real(own, images, *args)

    monkeypatch.setattr(ImageEncoder, "encode", encode)
    trials = bench.trials(plan, "supervised", "complementary")
    assert len(bench.run(trials).done) == len(trials) == 4
    assert sum(encoded) == 7 * 6 * 4 + 3 * 12  # tiles of seven slides in four variants, windows of three slides


def test_without_a_cache_the_encoder_sees_images_augmented_anew(bench):
    (cached,) = bench.trials(bench.plan(*SMALL), "supervised")
    (without,) = bench.trials(bench.plan(*SMALL, "network.feature_cache=off", "augmentation.scale=0.1"), "supervised")
    assert without.id != cached.id
    graph = bench.graph([without])
    assert list(graph) == [without.id]
    assert len(bench.run([without]).done) == 1
    assert not (bench.home / "runs" / "features").exists()


def test_only_shards_with_tiles_that_can_be_drawn_are_computed(bench, monkeypatch):
    monkeypatch.setattr(tiles_module, "_MIN_SHARD_TILES", 1)
    monkeypatch.setattr(tiles_module, "_BATCH", 6)  # one shard a slide
    monkeypatch.setattr(tiles_module, "MAX_SHARDS", 7)
    plan = bench.plan(*SMALL, "budgets=['masks:1p','masks:2p']")

    def ranges(graph, task):
        shards = [graph[key].job.document["shard"] for key in task.job.document["features"]]
        return {(shard["start"] // 6, shard["stop"] // 6) for shard in shards}

    trials = bench.trials(plan, "supervised", "complementary", "full")
    slides = [slide.patient_id for slide in bench.data.store.slides.values()]
    together = set()
    for method, n_shards in (("supervised", None), ("complementary", 7), ("full", 7)):
        own = [trial for trial in trials if trial.method == method]
        graph = bench.graph(own)
        for task in graph.of_kind(TaskKind.TRIAL):
            bought = {slides.index(patient) for patient in task.trial.budget.patients}
            expected = bought if n_shards is None else range(n_shards)
            assert ranges(graph, task) == {(row, row + 1) for row in expected}
            assert set(task.needs) == {*task.job.document["features"], *task.job.document["windows"]}
        computed = [task for task in graph.of_kind(TaskKind.FEATURES) if task.job.document["shard"]["of"] == "tiles"]
        assert len(computed) == (n_shards or 2)
        together |= {task.key for task in graph.of_kind(TaskKind.FEATURES)}
    assert together == {task.key for task in bench.graph(trials).of_kind(TaskKind.FEATURES)}  # reused between plans
    assert len(bench.run([trial for trial in trials if trial.method == "supervised"]).failed) == 0


def test_a_method_that_predicts_in_its_own_way_is_scored_from_images(bench, monkeypatch):
    from tissuebench.methods.supervised import Supervised

    trials = bench.trials(bench.plan(*SMALL), "supervised")
    assert bench.graph(trials)[trials[0].id].job.document["windows"]
    monkeypatch.setattr(Supervised, "predict", lambda self, images: self.network(images).softmax(1), raising=False)
    assert not bench.graph(trials)[trials[0].id].job.document["windows"]
    monkeypatch.setattr(Supervised, "predicts_features", True, raising=False)
    assert bench.graph(trials)[trials[0].id].job.document["windows"]
    monkeypatch.setattr(Supervised, "wants_images", classmethod(lambda cls, config: True))
    job = bench.graph(trials)[trials[0].id].job
    assert not job.document["windows"] and not job.document["features"]


def test_features_that_are_damaged_fail_the_trial_with_one_line(bench):
    trials = bench.trials(bench.plan(*SMALL), "supervised")
    bench.run(trials)
    ResultStore(results_folder(bench.home)).path(trials[0].id).unlink()
    maps = next((bench.home / "runs" / "features").glob("*/maps.float32"))
    maps.write_bytes(maps.read_bytes()[:-4])
    assert bench.run(trials).failed == (trials[0].id,)
    reason = read_failure(bench.home, TaskKind.TRIAL, trials[0].id).reason
    assert reason.startswith(str(maps.parent)) and reason.endswith("delete the folder and run the command again")


def test_a_finished_trial_has_no_features_computed_again(bench):
    plan = bench.plan(*SMALL, "budgets=['masks:2p','masks:3p']")
    one, other = bench.trials(plan, "supervised")
    bench.run([one])
    shutil.rmtree(bench.home / "runs" / "features")
    assert bench.run([one]).done == ()
    assert not (bench.home / "runs" / "features").exists()
    assert set(bench.run([one, other]).done) == set(bench.graph([other]))


def test_the_choice_is_made_by_size(bench):
    plan = bench.plan(*SMALL)
    tiles, windows = sizes_of_features(plan, bench.data)
    graph = bench.graph(bench.trials(plan, "full"))
    by_kind = {task.job.document["shard"]["of"]: task.n_bytes for task in graph.of_kind(TaskKind.FEATURES)}
    assert (tiles, windows) == (by_kind["tiles"], by_kind["windows"])
    for factor, chosen in ((1.01, "disk"), (0.99, "off")):
        limit = f"compute.feature_cache_gb={factor * (tiles + windows) / 1e9:.9f}"
        decided, said = choose_feature_cache(bench.plan(*SMALL, limit), bench.data)
        assert decided.network.feature_cache == chosen
        assert bool(said) is (chosen == "off")
    assert "dataset 'tiny': features are not cached, as they would take" in said
    assert "more than compute.feature_cache_gb=" in said and "\n" not in said
    for given in ("disk", "memory", "off"):
        settled, said = choose_feature_cache(bench.plan(*SMALL, f"network.feature_cache={given}", limit), bench.data)
        assert settled.network.feature_cache == given
        assert bool(said) is (given == "memory")
    trained, said = choose_feature_cache(bench.plan("seeds=[0]"), bench.data)
    assert trained.network.feature_cache is None and not said
