from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from pydantic import Field

from tissuebench.bench import BenchRequest, board_of_trials, prepare
from tissuebench.common.settings import Settings
from tissuebench.datasets.labels.budget_spec import Spending
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.errors import ConfigError
from tissuebench.methods.api import registry
from tissuebench.methods.api.method import Method
from tissuebench.plans.expand import expand, spending_of
from tissuebench.plans.schema import load_plan
from tissuebench.results.records.result_store import ResultStore
from tissuebench.sweep.jobs import TaskKind

MASKS, TAGS, DIAGNOSIS = Supervision.MASKS, Supervision.TAGS, Supervision.DIAGNOSIS


class Split(Settings):
    mask_share: float = Field(0.75)


def make(title, kinds, **members):
    class Made(Method):
        name = title
        summary = "for this test"
        consumes: ClassVar = frozenset(kinds)
        controls = members.get("controls", ())

        def streams(self):
            return {"any": Stream(Supervision.NONE, 1)}

        def training_step(self, batch, batch_idx):
            raise NotImplementedError

    return Made


class Divided(make("divided", {MASKS, TAGS, DIAGNOSIS})):
    Config = Split

    @classmethod
    def spending(cls, config):
        return {MASKS: config.mask_share, TAGS: 1 - config.mask_share}


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    made = {
        "divided": Divided,
        "tagger": make("tagger", {TAGS}, controls=("supervised", "full")),
        "reader": make("reader", {DIAGNOSIS}),
        "nothing": make("nothing", set()),
        "both": make("both", {MASKS, TAGS}),
    }
    monkeypatch.setattr(registry, "_registered", {**registry.all_methods(), **made})


def trials_of(bench, *methods, **lists):
    plan = bench.plan("seeds=[0]", *(f"{key}={value}" for key, value in lists.items()))
    return expand(plan, methods, bench.data, bench.home)


def test_by_default_all_minutes_go_to_the_dearest_label_that_is_consumed():
    assert spending_of("supervised", Settings()) == Spending(1, 0, False)
    assert spending_of("complementary", Settings()) == Spending(1, 0, True)
    assert spending_of("tagger", Settings()) == Spending(0, 1, False)
    assert spending_of("reader", Settings()) == Spending(0, 0, True)
    assert spending_of("divided", Split()) == Spending(0.75, 0.25, True)


@pytest.mark.parametrize("share", [1.5, -0.1])
def test_a_method_whose_shares_do_not_add_up_is_named(share):
    with pytest.raises(ConfigError, match=r"^method 'divided': shares of the minutes [^\n]*add up to 1$"):
        spending_of("divided", Split(mask_share=share))


@pytest.mark.parametrize("kind", [TAGS, DIAGNOSIS])
def test_minutes_cannot_go_to_what_is_not_consumed(monkeypatch, kind):
    monkeypatch.setattr(Divided, "consumes", frozenset({MASKS, DIAGNOSIS}))
    monkeypatch.setattr(Divided, "spending", classmethod(lambda cls, config: {kind: 1.0}))
    with pytest.raises(ConfigError, match=f"method 'divided' spends minutes on {kind}, which it does not consume"):
        spending_of("divided", Split())


@pytest.mark.parametrize(
    ("method", "budget", "consumed"),
    [
        ("supervised", "tags:2p", "masks"),
        ("reader", "tags:2p", "diagnosis"),
        ("reader", "masks:2p", "diagnosis"),
        ("tagger", "masks:2p", "tags"),
        ("nothing", "masks:2p", "no label"),
        ("nothing", "minutes:60", "no label"),
    ],
)
def test_a_budget_that_a_method_cannot_use_is_one_line(bench, method, budget, consumed):
    with pytest.raises(ConfigError) as error:
        trials_of(bench, method, budgets=f"['{budget}']")
    assert str(error.value) == f"method '{method}' cannot use budget '{budget}': it consumes {consumed}"


def test_a_control_that_nobody_asked_for_is_left_out_where_it_cannot_use_the_budget(bench):
    trials = trials_of(bench, "tagger", budgets="['tags:2p','masks:2p']")
    assert {(trial.method, trial.budget.spec) for trial in trials} == {
        ("supervised", "masks:2p"),
        ("tagger", "tags:2p"),
        ("full", "masks:all"),
    }


def test_a_method_is_left_out_at_budgets_of_what_it_does_not_spend_on(bench):
    every = "['masks:2p','tags:2p','minutes:8']"

    def used(method, **more):
        trials = trials_of(bench, method, budgets=every, **more)
        return {trial.budget.spec for trial in trials if trial.method == method}

    assert used("supervised") == {"masks:2p", "minutes:8"}
    assert used("tagger") == {"tags:2p", "minutes:8"}
    assert used("reader") == {"minutes:8"}
    assert used("divided") == {"masks:2p", "tags:2p", "minutes:8"}
    assert used("divided", **{"methods.divided.mask_share": "1.0"}) == {"masks:2p", "minutes:8"}
    assert used("both") == {"masks:2p", "minutes:8"}  # consumes tags, and spends nothing on them


def test_who_can_use_none_of_several_budgets_is_told_of_all(bench):
    with pytest.raises(ConfigError) as error:
        trials_of(bench, "both", budgets="['tags:2p','tags:all']")
    said = "it consumes masks, tags and spends on masks"
    assert str(error.value) == f"method 'both' cannot use budget 'tags:2p', 'tags:all': {said}"


def test_minutes_are_spent_as_each_method_says(bench):
    trials = {
        trial.method: trial for trial in trials_of(bench, "supervised", "tagger", "divided", budgets="['minutes:8']")
    }
    bought = {name: {kind: p.n_tiles for kind, p in trials[name].budget.purchases.items()} for name in trials}
    assert bought["supervised"] == {MASKS: 4}
    assert bought["tagger"].keys() == {TAGS}
    assert bought["divided"] == {MASKS: 3, TAGS: trials["divided"].budget.tags.n_tiles, DIAGNOSIS: 0}
    assert all(trial.minutes <= 8 for name, trial in trials.items() if name != "full")
    assert trials["full"].budget.spec == "masks:all"


def test_settings_decide_how_minutes_are_split(bench):
    (trial,) = trials_of(bench, "divided", budgets="['minutes:8']", **{"methods.divided.mask_share": "0.5"})
    assert trial.budget.spending == "masks0.5-tags0.5-diagnosis"
    assert trial.budget.tiles == 2


def test_minutes_of_a_trial_are_all_labels_that_it_sees(bench, monkeypatch):
    store = bench.data.store
    costs = replace(store.info.costs, diagnosis_minutes_per_case=0.5)
    monkeypatch.setattr(store, "info", replace(store.info, costs=costs))
    trials = trials_of(bench, "supervised", "complementary", "divided", budgets="['masks:2p','minutes:12']")
    trials += trials_of(bench, "divided", budgets="['tags:2p']")
    found = {(trial.method, trial.budget.spec): trial for trial in trials}
    diagnoses = 0.5 * len(bench.data.split.patients("train"))
    masks, tags = found["divided", "masks:2p"].budget, found["divided", "tags:2p"].budget
    assert found["supervised", "masks:2p"].minutes == masks.mask_minutes > 0
    assert found["complementary", "masks:2p"].minutes == masks.mask_minutes + diagnoses
    assert found["divided", "tags:2p"].minutes == pytest.approx(tags.tags.minutes + diagnoses)
    assert tags.tags.minutes > 0
    for name in ("complementary", "divided"):
        trial = found[name, "minutes:12"]
        assert trial.minutes == pytest.approx(trial.budget.minutes)
        assert trial.minutes <= 12
        assert trial.budget.diagnoses.minutes == diagnoses


def test_methods_share_the_budget_in_patients_whatever_they_consume(bench):
    trials = trials_of(bench, "supervised", "complementary", "divided", budgets="['masks:2p']")
    assert len({trial.budget.sha256 for trial in trials if trial.method != "full"}) == 1


@pytest.mark.parametrize("replicates", ["[0,1,2]", "per_seed"])
def test_a_budget_of_everything_is_trained_once_a_seed(bench, replicates):
    """Draws of everything are the same bits: taken for three runs they make a narrow interval of nothing."""
    budgets = "['masks:2p','masks:7p','masks:100%','minutes:84','minutes:83']"
    plan = bench.plan("seeds=[0,1,2]", f"replicates={replicates}", f"budgets={budgets}")
    trials = expand(plan, ("supervised", "full"), bench.data, bench.home)
    counted = Counter((trial.method, trial.budget.spec) for trial in trials)
    draws = 3 if replicates == "per_seed" else 9
    assert counted == {
        ("supervised", "masks:2p"): draws,
        ("supervised", "minutes:83"): draws,
        ("supervised", "masks:7p"): 3,
        ("supervised", "masks:100%"): 3,
        ("supervised", "minutes:84"): 3,
        ("full", "masks:all"): 3,
    }
    full = [trial for trial in trials if trial.method == "full"]
    assert [(trial.seed, trial.budget.replicate) for trial in full] == [(0, 0), (1, 0), (2, 0)]
    assert len({trial.budget.sha256 for trial in full}) == 1
    assert full[1].label == "full masks:all seed 1"
    board = board_of_trials(ResultStore(bench.home / "runs" / "results"), trials)
    expected = {(gap.method, gap.budget): gap.n_planned for gap in board.gaps}
    assert expected == counted
    graph = bench.graph(trials)
    assert len(graph.of_kind(TaskKind.TRIAL)) == len(trials) == 2 * draws + 12


@pytest.mark.parametrize(("name", "draws", "seeds"), [("standard", 3, 3), ("paper", 3, 5)])
def test_the_plans_that_cross_draws_and_seeds_train_full_once_a_seed(bench, name, draws, seeds):
    plan = load_plan(name, ("budgets=['masks:3p']", "network.weights=none"))
    trials = expand(plan, ("supervised", "full"), bench.data, bench.home)
    assert Counter(trial.method for trial in trials) == {"full": seeds, "supervised": draws * seeds}


def test_a_control_whose_labels_the_dataset_lacks_is_left_out(bench, monkeypatch):
    """Tags of whole slides, and no mask in training: nothing to compute 'full' from."""
    tags = dict.fromkeys(bench.data.store.slides, ("stroma",))
    withheld = bench.data.store.withheld
    none = np.zeros_like(withheld.tile_class_pixels("slide00"))
    monkeypatch.setattr(withheld, "tags", tags.get)
    monkeypatch.setattr(withheld, "tile_class_pixels", lambda slide_id: none)
    assert {trial.method for trial in trials_of(bench, "tagger", budgets="['tags:2p','minutes:8']")} == {"tagger"}
    with pytest.raises(ConfigError, match="dataset 'tiny': method 'full' learns from masks, which no patient"):
        trials_of(bench, "tagger", "full", budgets="['tags:2p']")


def test_a_budget_that_does_not_fit_names_the_dataset(bench):
    with pytest.raises(ConfigError, match=r"^dataset 'tiny': budget 'masks:9p' asks for 9 patients, [^\n]*$"):
        trials_of(bench, "supervised", budgets="['masks:9p']")


def test_a_wrong_key_is_told_under_the_name_that_it_was_given(bench):
    """The control follows the arm, and is made first."""
    with pytest.raises(ConfigError, match=r"methods\.diffusion: key 'network'"):
        bench.trials(bench.plan("methods.diffusion.network=papper"), "diffusion")


def test_a_wrong_setting_is_told_before_data_are_made(tmp_path):
    overrides = ("methods.diffusion.width=12",)
    with pytest.raises(ConfigError, match=r"methods\.diffusion: key 'width'"):
        prepare(BenchRequest(("diffusion",), "smoke", tmp_path, overrides=overrides))
    assert list(tmp_path.iterdir()) == []
