"""Coverage of intervals and marks of equal methods, by ``coverage_study``: cells that the page promises."""

import itertools

import pytest

from tests.results.stats.coverage_study import (
    DESIGNS,
    LEVELS,
    PATIENTS,
    SEED_EFFECTS,
    World,
    case_coverage,
    coverage,
    rare,
    wrongly_left_out,
)

CLASSES = {"mu": (1.0, 2.0, 0.0, 1.0), "present": (1.0,) * 4}


@pytest.mark.parametrize(("design", "n_patients", "ratio"), [("3x1", 16, 1.0), ("3x3", 16, 3.0), ("5x3", 64, 2.0)])
def test_intervals_hold_where_seeds_are_nested_or_crossed(design, n_patients, ratio):
    scores, differences = coverage(World(DESIGNS[design], n_patients, seed=0.2 * ratio))
    assert scores >= 0.92 and 0.93 <= differences <= 0.97


def test_a_rare_class_in_patients_of_unequal_size():
    world = rare(World(DESIGNS["3x1"], 16, size=1.0, **CLASSES))
    assert coverage(world)[0] >= 0.92
    assert coverage(rare(World(DESIGNS["3x3"], 16, size=1.0)))[0] >= 0.92


def test_a_recall_near_1_is_covered():
    assert case_coverage(8, 0.98, DESIGNS["3x1"]) >= 0.92


def test_equal_methods_are_rarely_left_out():
    assert wrongly_left_out(World(DESIGNS["3x1"], 16), 4, n=500) <= 0.05 + 0.016  # two standard errors of 500 tables


NOISE = 0.005  # standard error of a coverage of 95 % by 2,000 tables


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("n_patients", PATIENTS)
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_coverage_over_the_grid(design, n_patients, size):
    few = 0.01 if n_patients <= 16 else 0.0  # holes that the page names: differences a little too wide
    for ratio in SEED_EFFECTS:
        world = World(DESIGNS[design], n_patients, seed=0.2 * ratio, size=size)
        scores, differences = coverage(world)
        assert scores >= 0.92 - NOISE and 0.93 - NOISE <= differences <= 0.97 + few + NOISE, ratio
        scores, differences = coverage(rare(World(DESIGNS[design], n_patients, seed=0.2 * ratio, size=size, **CLASSES)))
        assert scores >= 0.92 - NOISE and 0.92 - NOISE <= differences <= 0.97 + NOISE, ratio
    for level in LEVELS.values():
        scores, differences = coverage(World(DESIGNS[design], n_patients, mu=(level,), size=size))
        assert scores >= 0.92 - NOISE and differences >= 0.93 - NOISE, level
        scores, differences = coverage(rare(World(DESIGNS[design], n_patients, mu=(level,), size=size)))
        assert scores >= 0.92 - NOISE and differences >= 0.93 - NOISE, level


@pytest.mark.slow
@pytest.mark.parametrize(("n_methods", "design"), [*itertools.product((2, 4, 6, 9), ("3x1", "3x3", "5x3"))])
def test_any_of_equal_methods_is_left_out_in_5_percent_of_tables(n_methods, design):
    assert wrongly_left_out(World(DESIGNS[design], 16), n_methods, n=2000) <= 0.05 + NOISE
