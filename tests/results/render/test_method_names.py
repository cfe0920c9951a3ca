"""Names of arms, short and found again."""

import pytest

from tissuebench.errors import DataError
from tissuebench.results.render.method_names import find_arm, short_names


def test_settings_are_left_out_where_the_method_is_alone():
    arms = {"plain", "mine[a=1,b=[2, 3]]", "other[a=1]", "other[a=2]", "both", "both[a=1]"}
    short, settings = short_names(arms)
    assert short == {arm: arm for arm in arms} | {"mine[a=1,b=[2, 3]]": "mine"}
    assert settings == {"mine": "a=1, b=[2, 3]"}


def test_variants_are_told_apart_by_what_not_all_of_them_have():
    arms = {"mine[a=1,b=2]", "mine[a=1,b=3]", "mine[a=1]", "long", f"long[{'x' * 50}=1]"}
    short, settings = short_names(arms)
    assert short == {
        "mine[a=1,b=2]": "mine[b=2]",
        "mine[a=1,b=3]": "mine[b=3]",
        "mine[a=1]": "mine",
        "long": "long",
        f"long[{'x' * 50}=1]": "long#2",
    }
    assert settings == {
        "mine[b=2]": "a=1, b=2",
        "mine[b=3]": "a=1, b=3",
        "mine": "a=1",
        "long#2": f"{'x' * 50}=1",
    }


def test_commas_in_values_and_settings_within_settings_are_told_apart():
    arms = {
        "mine[a=[1, 2],inner={'deep': {'x': 1}, 'y': ['p', 'q']},name=one,two,z=0]",
        "mine[a=[1, 3],inner={'deep': {'x': 1}, 'y': ['p', 'r']},name=one,two,z=0]",
    }
    short, settings = short_names(arms)
    assert sorted(short.values()) == ["mine[a=[1, 2],inner.y=['p', 'q']]", "mine[a=[1, 3],inner.y=['p', 'r']]"]
    assert (
        settings["mine[a=[1, 2],inner.y=['p', 'q']]"]
        == "a=[1, 2], inner.deep.x=1, inner.y=['p', 'q'], name=one,two, z=0"
    )


def test_an_arm_is_found_by_its_method_where_that_says_which():
    arms = ["mine[a=1]", "both", "both[a=1]", "other[a=1]", "other[a=2]"]
    assert [find_arm(name, arms, "here") for name in ("mine", "mine[a=1]", "both")] == [
        "mine[a=1]",
        "mine[a=1]",
        "both",
    ]
    assert find_arm("mine[b=2]", ["mine[a=1,b=2]", "mine[a=1,b=3]"], "here") == "mine[a=1,b=2]"  # as in the table
    with pytest.raises(DataError, match="here: 2 variants"):
        find_arm("mine", ["mine[a=1,b=2]", "mine[a=1]"], "here")
    with pytest.raises(
        DataError, match=r"here: 2 variants of method 'other' have results; choose one: other\[a=1\], other\[a=2\]"
    ):
        find_arm("other", arms, "here")
    with pytest.raises(DataError, match="here: unknown method 'bth': did you mean 'both'"):
        find_arm("bth", arms, "here")
