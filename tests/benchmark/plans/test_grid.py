"""Grids: which lists are variants and which are values, what controls do, and where a grid is refused."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from pydantic import Field

from tissuebench.common.settings import Settings
from tissuebench.datasets.types import Stream, Supervision
from tissuebench.errors import ConfigError
from tissuebench.methods.api import registry
from tissuebench.methods.api.method import Method
from tissuebench.plans.expand import configured, expand, planned_cells
from tissuebench.plans.grid import variants_of
from tissuebench.plans.schema import load_plan

VAL = "evaluation.part=val"


class Inner(Settings):
    steps: int = Field(3, ge=1)
    layers: tuple[int, ...] = (1,)


class Odd(Settings):
    """Settings of every kind that could be mistaken for a grid."""

    edge: int | tuple[int, int] = 8
    inner: Inner = Inner()
    name: str | None = None
    pairs: tuple[tuple[int, int], ...] = ()


class OddMethod(Method[Odd]):
    name = "odd"
    summary = "for this test"
    consumes: ClassVar = frozenset({Supervision.MASKS})
    controls = ()

    def streams(self):
        return {"any": Stream(Supervision.NONE, 1)}

    def training_step(self, batch, batch_idx):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {**registry.all_methods(), "odd": OddMethod})


def names(method, *overrides):
    return [variant.name for variant in variants_of(load_plan("smoke", (*overrides, VAL)), method)]


def test_a_list_where_one_value_is_expected_is_a_grid():
    assert names("complementary", "methods.complementary.gamma=[0,1,2]") == [
        "complementary[gamma=0.0]",
        "complementary[gamma=1.0]",
        "complementary",  # 2 is the default
    ]
    crossed = names("complementary", "methods.complementary={gamma: [0, 1], balanced: [true, false], weight: 2}")
    assert len(crossed) == 4
    assert all("weight=2.0" in name for name in crossed)
    assert names("complementary", "methods.complementary.max_excluded=[null,1]") == [
        "complementary",
        "complementary[max_excluded=1]",
    ]
    assert names("complementary", "methods.complementary.gamma=[1,1.0]") == ["complementary[gamma=1.0]"]


def test_a_list_that_a_setting_can_hold_is_its_value_and_a_list_of_them_is_a_grid():
    key = "methods.multilayer_pseudo"
    assert names("multilayer_pseudo", f"{key}.layers=[deep]", f"{key}.weights=[1.0]") == [
        "multilayer_pseudo[layers=['deep'],weights=[1.0]]"
    ]
    assert len(names("multilayer_pseudo", f"{key}.weights=[[0.5,0.5],[0.2,0.8]]")) == 2
    with pytest.raises(ConfigError, match=r"methods\.multilayer_pseudo: key 'layers\.0'"):
        names("multilayer_pseudo", f"{key}.layers=[depp]")
    assert names("odd", "methods.odd.edge=[1,2]") == ["odd[edge=[1, 2]]"]
    with pytest.raises(ConfigError, match=r"methods\.odd: key 'edge"):
        names("odd", "methods.odd.edge=[1,2,3]")  # no pair, and never three variants by accident
    assert names("odd", "methods.odd.pairs=[[1,2],[3,4]]") == ["odd[pairs=[[1, 2], [3, 4]]]"]
    assert len(names("odd", "methods.odd.edge=[[1,2],[3,4]]", "methods.odd.name=[a,b]")) == 4


def test_settings_within_settings_have_grids_too():
    assert len(names("odd", "methods.odd.inner.steps=[1,2]", "methods.odd.inner.layers=[4,5]")) == 2
    assert len(names("odd", "methods.odd.inner.layers=[[4],[5,6]]")) == 2
    assert len(names("odd", "methods.odd.inner=[{steps: 1}, {steps: 2}]")) == 2


def test_names_that_stored_results_use_have_grids_too():
    found = names("mean_teacher", "methods.mean_teacher={crowd: [1, 2]}")
    assert found == ["mean_teacher", "mean_teacher[crowd=2]"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("methods.complementary.gamma=[]", r"methods\.complementary\.gamma: a grid needs at least one value"),
        ("methods.complementary.gamma=[0,-1]", r"methods\.complementary: key 'gamma'"),
        ("methods.complementary.gamme=[0,1]", "did you mean 'gamma'"),
        ("training.steps=[100,200]", r"key 'training\.steps'"),
    ],
)
def test_what_is_no_grid_is_one_line(override, said):
    with pytest.raises(ConfigError, match=said) as error:
        names("complementary", override)
    assert "\n" not in str(error.value)


def test_a_control_has_a_variant_for_each_one_of_the_method_it_belongs_to():
    grid = ("methods.anatomical_contrast.local_distill=[true,false]", "methods.anatomical_contrast.strong=[0.8,0.9]")
    assert len(names("anatomical_contrast", *grid)) == 4
    restarted = names("mean_teacher_restarted", *grid)
    assert len(restarted) == 4
    assert sum("masks_first=False" in name for name in restarted) == 2  # follows a value that it does not have itself
    assert names("mean_teacher", *grid) == names("mean_teacher")
    assert names("supervised", *grid) == ["supervised"]


def test_a_grid_is_refused_on_the_test_part_before_any_data_are_made():
    plan = load_plan("smoke", ("methods.complementary.gamma=[0,1]",))
    with pytest.raises(ConfigError, match=r"'complementary' has a grid of 2 variants[^\n]*--set evaluation.part=val"):
        configured(plan, ("complementary",))
    configured(plan, ("supervised",))  # no grid of a method that is compared
    configured(load_plan("smoke", ("methods.complementary.gamma=[0]",)), ("complementary",))  # one value, no choice
    plan = load_plan("smoke", ("methods.anatomical_contrast.strong=[0.8,0.9]",))
    with pytest.raises(ConfigError, match="'anatomical_contrast' has a grid"):  # not its control, which follows
        configured(plan, ("anatomical_contrast",))


def test_every_variant_is_trained_at_the_budgets_that_it_can_use(bench):
    plan = bench.plan(
        VAL, "seeds=[0,1]", "budgets=['masks:2p','tags:2p']", "methods.multilayer_pseudo.mask_share=[0,1]"
    )
    counted = Counter(
        (one.arm, one.budget.spec) for one in expand(plan, ("multilayer_pseudo",), bench.data, bench.home)
    )
    assert counted == Counter(planned_cells(plan, ("multilayer_pseudo",)))
    variants = {key for key in counted if key[0].startswith("multilayer_pseudo")}
    assert variants == {("multilayer_pseudo", "tags:2p"), ("multilayer_pseudo[mask_share=1.0]", "masks:2p")}
    assert counted["multilayer_pseudo", "tags:2p"] == 2
