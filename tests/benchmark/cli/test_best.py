"""``tissuebench results best``: from a grid on the validation part to the line that runs the choice on the test part."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from tissuebench.bench import BenchRequest
from tissuebench.cli.main import cli
from tissuebench.errors import TissueBenchError
from tissuebench.methods.multilayer_pseudo import MultilayerPseudo
from tissuebench.plans.expand import expand
from tissuebench.plans.schema import load_plan
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import results_folder
from tissuebench.sweep.state.record import write_sweep

GRID = "methods.complementary={gamma: [0, 1, 2], weight: 0.5}"


def scored(trial, right):
    """A result of this trial, on two patients, with about ``right`` of 1,000 pixels correct."""
    counts = np.array([[[right + i, 1000 - right - i], [1000 - right, right]] for i in (0, 5)])
    calibration = np.zeros((2, 15, 3))
    calibration[:, 12] = np.stack(
        [counts.sum((1, 2)), 0.83 * counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)], -1
    )
    return TrialResult(
        trial_id=trial.id, dataset=trial.dataset, method=trial.arm, budget=trial.budget.spec, minutes=trial.minutes,
        replicate=trial.budget.replicate, seed=trial.seed, classes=("glass", "tumour"), colors=((0, 0, 0), (200, 0, 0)),
        diagnoses={}, patient_ids=("p", "q"), slide_ids=("s", "t"), slide_diagnoses=("", ""), counts=counts,
        boundaries=np.zeros((2, 2, 4), np.int64), calibration=calibration, slide_seconds=np.ones(2),
        identity=trial.identity(), environment={}, seconds={"fit": 1.0}, compute={"steps": 1},
    )  # fmt: skip


@pytest.fixture
def grid(bench):
    """Three variants on the validation part; the best one differs between the budgets."""
    overrides = (GRID, "evaluation.part=val", "budgets=['masks:1p','masks:2p']", "seeds=[0,1]", "training.steps=7")
    request = BenchRequest(("complementary",), str(bench.plan_path), bench.home, overrides=overrides)
    plan = load_plan(request.plan, request.overrides)
    trials = expand(plan, request.methods, bench.data, bench.home)
    write_sweep(bench.home, bench.graph(trials), "tiny on tiny", request.options)
    store = ResultStore(results_folder(bench.home))
    best = {"masks:1p": 1.0, "masks:2p": 2.0}
    for trial in trials:
        gamma = getattr(trial.config, "gamma", None)
        store.write(scored(trial, 900 if gamma == best.get(trial.budget.spec) else 600 + 10 * trial.seed))
    return trials


def said(bench, *arguments):
    done = CliRunner().invoke(cli, ["results", "best", *arguments, "--home", str(bench.home)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_line_runs_the_chosen_variant_of_the_same_plan_on_the_test_part(bench, grid):
    found = json.loads(said(bench, "--json"))
    assert {(row["budget"], row["variant"]) for row in found["variants"] if row["chosen"]} == {
        ("masks:1p", "complementary[gamma=1.0,weight=0.5]"),
        ("masks:2p", "complementary[weight=0.5]"),
    }
    tested = []
    for line in found["commands"]:
        words = shlex.split(line)
        assert words[:2] == ["tissuebench", "run"]
        given = list(zip(words[2::2], words[3::2], strict=True))
        options = dict(given)
        assert options["--dataset"] == "tiny" and options["--home"] == str(bench.home)
        sets = [value for option, value in given if option == "--set"]
        plan = load_plan(options["--plan"], (*sets, f"budgets=['{options['--budget']}']"))
        tested += [
            one for one in expand(plan, [options["--method"]], bench.data, bench.home) if one.method == "complementary"
        ]

    def on_test(trial):
        return json.dumps({**trial.identity(), "evaluation": {**trial.identity()["evaluation"], "part": "test"}})

    chosen = {"masks:1p": 1.0, "masks:2p": 2.0}
    wanted = [on_test(one) for one in grid if getattr(one.config, "gamma", None) == chosen.get(one.budget.spec, -1)]
    assert sorted(json.dumps(one.identity()) for one in tested) == sorted(wanted)
    assert len(tested) == 4


def test_the_page_names_choice_ties_and_all_variants(bench, grid):
    text = said(bench, "--part", "val")
    assert max(len(line) for line in text.splitlines() if not line.startswith("tissuebench run")) <= 120
    assert "masks:1p: complementary[gamma=1.0] has the best mean" in text
    assert "complementary[gamma=0.0]: with gamma=0.0, weight=0.5" in text
    assert text.count("[gamma=0.0]") >= 3
    assert "tissuebench run --method complementary --dataset tiny --budget masks:1p" in text


def test_what_is_not_finished_is_said(bench, grid):
    store = ResultStore(results_folder(bench.home))
    gone = next(one for one in grid if one.arm == "complementary[gamma=1.0,weight=0.5]")
    store.path(gone.id).unlink()
    done = CliRunner().invoke(cli, ["results", "best", "--home", str(bench.home)])
    assert "planned trials without a result yet: 1;" in done.stderr
    assert "incomplete and not considered: complementary[gamma=1.0]" in done.stdout


def test_a_choice_on_test_patients_and_a_choice_of_nothing_are_refused(bench, tmp_path):
    for arguments, reason in ((("--part", "test"), "owes part of its score"), ((), "no method has several variants")):
        done = CliRunner().invoke(cli, ["results", "best", *arguments, "--home", str(tmp_path)])
        assert isinstance(done.exception, TissueBenchError)
        assert reason in str(done.exception) and "\n" not in str(done.exception)


def test_a_file_of_weights_is_named_by_the_path_that_was_given_and_not_by_its_hash(bench):
    """The hash in an identity is no value that the setting takes."""
    method, file = "multilayer_pseudo", "/weights/a1.params"
    key = f"methods.{method}"
    trial = bench.trials(bench.plan("evaluation.part=val"), "supervised")[0]
    store = ResultStore(results_folder(bench.home))
    weights = {"path": file, "sha256": "5" * 64}
    configs = [MultilayerPseudo.Config(backbone="paper", classifier_weights=weights), MultilayerPseudo.Config()]
    trials = [replace(trial, method=method, config=config) for config in configs]
    given = (
        "--plan",
        str(bench.plan_path),
        "--set",
        f"{key}.backbone=paper",
        "--set",
        f"{key}.classifier_weights={file}",
    )
    write_sweep(bench.home, bench.graph(trials), "tiny on tiny", given)
    for share, one in zip((900, 600), trials, strict=True):
        store.write(scored(one, share))
    (line,) = json.loads(said(bench, "--json"))["commands"]
    assert f"{key}.classifier_weights={file}" in shlex.split(line)
    assert "5" * 8 not in line
