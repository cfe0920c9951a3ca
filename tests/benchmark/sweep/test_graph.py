"""What is shared and what is not: keys of stages, features and trials."""

from __future__ import annotations

import pytest

from tissuebench.common.settings import Settings
from tissuebench.errors import ConfigError
from tissuebench.methods.api.method import Stage
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.plans.trial import Trial
from tissuebench.sweep.jobs import Job, TaskKind

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")


@pytest.fixture(autouse=True)
def _plugin(plugin):
    return plugin


def stages(graph, name):
    return [task for task in graph.of_kind(TaskKind.STAGE) if task.job.document["stage"] == name]


def test_a_stage_without_labels_is_there_once_a_seed_and_one_with_tags_once_a_budget(bench):
    trials = bench.trials(bench.plan("budgets=['masks:1p','masks:2p','masks:3p']", "seeds=[0,1,2]"), "staged")
    graph = bench.graph(trials)
    assert len(trials) == len(graph.of_kind(TaskKind.TRIAL)) == 9
    assert len(stages(graph, "pretrain_of_a_test")) == 3
    assert len(stages(graph, "cam_of_a_test")) == 9
    assert graph.steps == 9 * 6 + 3 * 4 + 9 * 3
    assert graph.independent_steps == 9 * (6 + 4 + 3)


def test_every_task_comes_after_what_it_needs(bench):
    graph = bench.graph(bench.trials(bench.plan(*FROZEN), "staged", "supervised"))
    seen = set()
    for key, task in graph.items():
        assert set(task.needs) <= seen
        seen.add(key)
    (pretrain, *_) = stages(graph, "pretrain_of_a_test")
    assert not pretrain.needs  # it wants images, not features
    (cam, *_) = stages(graph, "cam_of_a_test")
    assert len(cam.needs) == 2
    features = {task.key: task for task in graph.of_kind(TaskKind.FEATURES)}
    assert {task.job.document["shard"]["of"] for task in features.values()} == {"tiles", "windows"}
    for task in graph.of_kind(TaskKind.TRIAL):
        assert {features[key].job.document["shard"]["of"] for key in task.job.document["windows"]} == {"windows"}
    kinds = [task.job.kind for task in graph.values()]
    assert kinds == sorted(kinds, key=list(TaskKind).index)


def test_dependents_are_found_through_those_in_between(bench):
    graph = bench.graph(bench.trials(bench.plan("seeds=[0]"), "staged", "supervised"))
    (pretrain,) = stages(graph, "pretrain_of_a_test")
    staged = {task.key for task in graph.values() if task.trial.method == "staged"}
    assert graph.dependents(pretrain.key) == staged - {pretrain.key}


def keys_of(bench, *overrides):
    graph = bench.graph(bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']", *overrides), "staged"))
    return {task.job.document["stage"]: task.key for task in graph.of_kind(TaskKind.STAGE)}


@pytest.mark.parametrize(
    ("change", "pretrain_changes", "cam_changes"),
    [
        ("methods.staged.weight=0.25", False, False),
        ("training.steps=7", False, False),
        ("compute.slots=1", False, False),
        ("evaluation.overlap=0", False, False),
        ("methods.staged.cam_steps=5", False, True),
        ("budgets=['masks:3p']", False, True),
        ("training.selection_share=0.5", False, True),
        ("methods.staged.noise=0.2", True, True),
        ("methods.staged.pretrain_steps=5", True, True),
        ("augmentation.color=0.1", True, True),
        ("augmentation.orientations=flips", True, True),
        ("augmentation.orientations=dihedral", False, False),
        ("network.decoder_channels=64", True, True),
        ("training.learning_rate=0.01", True, True),
        ("seeds=[1]", True, True),
    ],
)
def test_a_key_changes_with_what_the_result_depends_on_and_with_nothing_else(
    bench, change, pretrain_changes, cam_changes
):
    plain, changed = keys_of(bench), keys_of(bench, change)
    assert (plain["pretrain_of_a_test"] != changed["pretrain_of_a_test"]) is pretrain_changes
    assert (plain["cam_of_a_test"] != changed["cam_of_a_test"]) is cam_changes


def test_features_are_shared_by_methods_budgets_and_seeds(bench):
    plan = bench.plan("budgets=['masks:2p','masks:3p']", "seeds=[0,1]", *FROZEN)
    graph = bench.graph(bench.trials(plan, "supervised", "complementary"))
    tiles, windows = graph.of_kind(TaskKind.FEATURES)
    assert all(task.needs == (tiles.key, windows.key) for task in graph.of_kind(TaskKind.TRIAL))
    assert tiles.tiles == 6 * 7
    assert windows.tiles == 3 * 3 * 4  # windows of 32 px that overlap by a quarter, on three slides of 64 x 96 px


@pytest.mark.parametrize(
    "change", ["augmentation.hue=0", "network.feature_variants=3", "network.decoder=unet", "network.dropout=0"]
)
def test_a_bank_of_features_is_another_when_what_is_in_it_is(bench, change):
    def key(*overrides):
        graph = bench.graph(bench.trials(bench.plan("seeds=[0]", *FROZEN, *overrides), "supervised"))
        tiles, windows = graph.of_kind(TaskKind.FEATURES)
        return tiles.key, windows.key

    tiles, windows = (one != other for one, other in zip(key(), key(change), strict=True))
    assert tiles is (change != "network.dropout=0")
    assert windows is (change == "network.decoder=unet")


def test_a_job_survives_its_journey(bench):
    graph = bench.graph(bench.trials(bench.plan("seeds=[0]"), "staged"))
    for task in graph.values():
        assert Job.from_json(task.job.to_json()) == task.job
        assert Trial.of_document(task.job.document["trial"]) == task.trial


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([("a", (), ()), ("a", (), ())], "stage 'a': stage names must be unique"),
        ([("a/b", (), ())], "stage 'a/b': stage names must be unique"),
        ([("a", ("b",), ()), ("b", (), ())], "stage 'a' needs unknown earlier stage 'b'"),
        ([("a", (), ("diagnosis",))], "stage 'a' consumes diagnosis, which the method does not"),
    ],
)
def test_stages_that_contradict_each_other_are_one_line(bench, plugin, monkeypatch, stages, says):
    made = tuple(
        Stage(name, plugin.Denoising, Settings(), TrainingSettings(), frozenset(consumes), needs)
        for name, needs, consumes in stages
    )
    monkeypatch.setattr(plugin.Staged, "stages", classmethod(lambda cls, config, training: made))
    with pytest.raises(ConfigError) as error:
        bench.graph(bench.trials(bench.plan("seeds=[0]"), "staged"))
    assert str(error.value).startswith(f"method 'staged': {says}")
    assert "\n" not in str(error.value)
