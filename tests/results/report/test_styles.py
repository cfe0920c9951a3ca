"""Names, colours and shapes of methods."""

from __future__ import annotations

from tissuebench.results.report.styles import INK, brief, labels, method_styles, plain, settings

ARMS = ["full", "supervised", "mean_teacher[decay=0.9]", "other[a=1,b=2]", "other[a=1,b=3]"]


def test_labels_say_only_what_tells_arms_apart():
    assert labels(ARMS) == {
        "full": "full",
        "supervised": "supervised",
        "mean_teacher[decay=0.9]": "mean_teacher",
        "other[a=1,b=2]": "other[b=2]",
        "other[a=1,b=3]": "other[b=3]",
    }
    assert settings(ARMS) == {"mean_teacher": "decay=0.9", "other[b=2]": "a=1, b=2", "other[b=3]": "a=1, b=3"}


def test_long_names_stay_different():
    long = [f"method[{'x' * 40}={i}]" for i in range(3)] + ["y" * 60 + "1", "y" * 60 + "2"]
    found = labels(long)
    assert len(set(found.values())) == len(long)
    assert max(map(len, found.values())) <= 30


def test_every_method_has_a_shape_and_the_controls_are_ink():
    found = method_styles([*(f"m{i}" for i in range(9)), "supervised", "full"])
    assert len({style.marker for style in found.values()}) == 11
    assert found["supervised"].color == found["full"].color == INK
    assert len({(style.color, style.dash) for style in found.values()}) == 11


def test_text_without_what_xml_forbids():
    assert plain("a\x00b\nc\ud800d") == "a b c d"
    assert brief("abcdefgh", 5) == "abcd…"
