"""Names of arms, short and found again."""

import pytest

from tissuebench.errors import DataError
from tissuebench.results.render.method_names import find_arm, short_names


def test_settings_are_left_out_where_the_method_is_alone():
    arms = {"plain", "mine[a=1,b=[2,3]]", "other[a=1]", "other[a=2]", "both", "both[a=1]"}
    short, settings = short_names(arms)
    assert short == {arm: arm for arm in arms} | {"mine[a=1,b=[2,3]]": "mine"}
    assert settings == {"mine": "a=1, b=[2, 3]"}


def test_an_arm_is_found_by_its_method_where_that_says_which():
    arms = ["mine[a=1]", "both", "both[a=1]", "other[a=1]", "other[a=2]"]
    assert [find_arm(name, arms, "here") for name in ("mine", "mine[a=1]", "both")] == [
        "mine[a=1]",
        "mine[a=1]",
        "both",
    ]
    with pytest.raises(
        DataError, match=r"here: 2 variants of method 'other' have results; choose one: other\[a=1\], other\[a=2\]"
    ):
        find_arm("other", arms, "here")
    with pytest.raises(DataError, match="here: unknown method 'bth': did you mean 'both'"):
        find_arm("bth", arms, "here")
