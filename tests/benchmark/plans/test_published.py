"""Published plans: each says the whole recipe of its variant, and each line where it comes from."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from tissuebench.common.own_settings import Own
from tissuebench.methods.api.registry import find_method
from tissuebench.plans.schema import load_plan, plan_names

PLANS = [name for name in plan_names() if name.startswith("published/")]
NOT_OF_THE_RECIPE = {  # files that a user names, and settings of other forms of a method
    "classifier_weights", "segmenter_weights", "classifier_width", "hidden", "threshold", "source", "mask_share",
    "feature_dropout", "max_excluded",
}  # fmt: skip


def _recipes():
    for plan in PLANS:
        for method, settings in load_plan(plan).methods.items():
            if method.endswith("_published"):
                yield pytest.param(plan, method, settings, id=method)


RECIPES = list(_recipes())


def test_there_is_a_plan_for_each_of_the_four_papers():
    assert [f"published/{name}" for name in ("action", "complementary", "genselfdiff_his", "wsss_tissue")] == PLANS
    assert len(RECIPES) == 4


@pytest.mark.parametrize(("plan", "method", "settings"), RECIPES)
def test_a_plan_says_what_the_variant_is_and_leaves_nothing_out(plan, method, settings):
    kind = find_method(method)
    assert kind.Config.model_validate(settings) == kind.Config()
    assert kind.Config.model_fields.keys() - settings.keys() <= NOT_OF_THE_RECIPE
    for name, field in kind.Config.model_fields.items():
        for mark in (one for one in field.metadata if isinstance(one, Own)):
            assert settings[name].keys() == mark.defaults.keys(), name


@pytest.mark.parametrize(("plan", "method", "settings"), RECIPES)
def test_every_setting_says_where_it_comes_from(plan, method, settings):
    text = files("tissuebench.plans").joinpath(f"{plan}.yaml").read_text()
    _, _, section = text.partition(f"  {method}:\n")
    section = re.split(r"^ {0,2}\w", section, maxsplit=1, flags=re.MULTILINE)[0]
    said = [one for one in re.split(r"^(?=(?: {4}| {6})\w+:)", section, flags=re.MULTILINE) if one.strip()]
    assert len(said) >= len(settings)
    assert [one for one in said if "#" not in one] == []
