"""Budget specifications: their spelling, the patients they buy, and the shares of minutes for each kind of label."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuebench.datasets.labels.budget_spec import Spending, fitting_budgets, parse_spec
from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("masks:3p", 3),
        ("masks:12p", 12),
        ("masks:25%", 3),
        ("masks:26%", 4),
        ("masks:0.1%", 1),
        ("masks:33.4%", 5),
        ("masks:100%", 12),
        ("masks:all", 12),
    ],
)
def test_what_a_spec_buys_of_twelve(spec, count):
    assert parse_spec(spec).patients_of(12) == count
    assert parse_spec(spec.replace("masks", "tags")).patients_of(12) == count


@given(st.integers(1, 500))
def test_a_share_that_comes_out_even_is_not_rounded_up(n):
    assert parse_spec("masks:10%").patients_of(10 * n) == n
    assert parse_spec("masks:70%").patients_of(10 * n) == 7 * n


@pytest.mark.parametrize(
    "spec",
    [
        "masks:3",
        "masks:p",
        "3p",
        "mask:3p",
        "masks:-1p",
        "masks:25",
        "masks:ALL",
        " masks:3p",
        "masks:3p ",
        "",
        "masks:",
        "masks:3p\n",
        "masks:\u0663p",
        "masks:" + 5000 * "9" + "p",
        "tags:3",
        "minutes:",
        "minutes:-5",
        "minutes:1e3",
        "minutes:nan",
        "minutes:inf",
        "minutes:60p",
        "diagnosis:3p",
        "masks:../../x",
    ],
)
def test_another_spelling_says_how_to_spell_it(spec):
    with pytest.raises(ConfigError) as error:
        parse_spec(spec)
    for spelling in ("'masks:3p' (patients)", "'masks:25%' (a share)", "'masks:all'", "'tags:'", "'minutes:60'"):
        assert spelling in str(error.value)
    assert "\n" not in str(error.value)


@given(
    st.from_regex(
        r"(masks|tags):([0-9]{1,4}p|[0-9]{1,3}(\.[0-9]{1,3})?%|all)|minutes:[0-9]{1,4}(\.[0-9]{1,3})?",
        fullmatch=True,
        alphabet="0123456789abcdefghijklmnopqrstuvwxyz:.%",
    )
)
def test_what_can_be_said_can_be_read_and_be_a_file_name(text):
    spec = parse_spec(text)
    given = [value for value in (spec.patients, spec.share, spec.minutes) if value is not None]
    assert (spec.text, len(given)) == (text, 1)
    assert spec.kind == (None if text.startswith("minutes") else Supervision(text.partition(":")[0]))
    assert not set(spec.file_name) & set("/\\:%")


@given(
    st.lists(
        st.sampled_from(["masks:3p", "masks:3%", "masks:all", "tags:3p", "minutes:3", "minutes:3.0", "masks:30%"]),
        unique=True,
    )
)
def test_no_two_spellings_share_a_file(texts):
    assert len({parse_spec(text).file_name for text in texts}) == len(texts)


@pytest.mark.parametrize("spec", ["masks:13p", "masks:0p", "masks:0%", "masks:101%"])
def test_what_cannot_be_bought(spec):
    with pytest.raises(ConfigError, match=r"patients, the training part has 12 patients with masks$"):
        parse_spec(spec).patients_of(12)


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.5, -0.5), (float("nan"), 1), (1, 1), (float("inf"), 0)])
def test_shares_of_the_minutes_must_add_up(shares):
    with pytest.raises(ConfigError, match="must not be negative and add up to 1"):
        Spending(*shares)


@given(st.floats(0, 1))
def test_a_split_of_the_minutes_has_a_name_of_its_own(share):
    spending = Spending(share, 1 - share)
    assert str(spending) != str(Spending(share, 1 - share, True))
    if 0.01 < share < 0.99:
        assert str(spending) != str(Spending(share + 0.001, 1 - share - 0.001))


@pytest.mark.parametrize(
    ("specs", "there", "fitting"),
    [
        (["masks:3p", "masks:6p", "minutes:60"], {Supervision.MASKS: 2}, ["masks:1p", "masks:2p", "minutes:60"]),
        (["masks:3p", "masks:6p"], {Supervision.MASKS: 1}, ["masks:1p"]),
        (["masks:3p", "masks:6p"], {Supervision.MASKS: 5}, ["masks:3p", "masks:5p"]),
        (["masks:6p", "masks:25%"], {Supervision.MASKS: 3}, ["masks:3p", "masks:25%"]),
        (["masks:0p"], {Supervision.MASKS: 3}, ["masks:1p", "masks:3p"]),
        (["masks:1p", "tags:9p"], {Supervision.MASKS: 3, Supervision.TAGS: 4}, ["masks:1p", "tags:2p", "tags:4p"]),
    ],
)
def test_budgets_that_fit(specs, there, fitting):
    assert fitting_budgets(specs, there) == fitting
    kinds = {spec: parse_spec(spec).kind for spec in fitting}
    assert all(parse_spec(spec).patients_of(there[kind]) for spec, kind in kinds.items() if kind)
