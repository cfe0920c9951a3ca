"""The transition matrix of complementary labels: stated values, and the sampler itself."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.datasets.types import ClassMap
from tissuebench.datasets.weak_labels import excluded_classes
from tissuebench.methods.api.contract import make_task
from tissuebench.methods.complementary import Complementary, ComplementarySettings, Form
from tissuebench.methods.losses.complementary import forward_corrected
from tissuebench.methods.losses.observation import observation_probabilities

DRAWS = 400_000


def class_map_of(diagnoses, shared=("stroma",)):
    names = (*shared, *dict.fromkeys(name for allowed in diagnoses.values() for name in allowed))
    return ClassMap(names, tuple((number, 0, 0) for number in range(len(names))), diagnoses)


def sets_of(class_map):
    return torch.tensor(np.stack([excluded_classes([name], class_map) for name in class_map.diagnoses]))


@pytest.mark.parametrize(
    ("diagnoses", "expected"),
    [
        ({"A": ["a"], "B": ["b"]}, {"A": [1 / 2, 1, 0], "B": [1 / 2, 0, 1]}),
        ({"A": ["a"], "B": ["b"], "C": ["c"]}, {"A": [1 / 3, 1, 0, 0], "C": [1 / 3, 0, 0, 1]}),
        # one diagnosis excludes nothing, so all complementary tiles are of the other
        ({"adenocarcinoma": ["ca", "adenoma"], "adenoma": ["adenoma"]}, {"adenoma": [1, 0, 1]}),
        ({"A": ["a1", "a2"], "B": ["b"]}, {"A": [1 / 3, 1, 1, 0], "B": [2 / 3, 0, 0, 1]}),
        # two names of the same
        ({"A": ["a"], "A too": ["a"], "B": ["b"]}, {"A": [1 / 2, 1, 0], "B": [1 / 2, 0, 1]}),
    ],
)
def test_stated_values(diagnoses, expected):
    class_map = class_map_of(diagnoses)
    for name, column in expected.items():
        excluded = torch.tensor(excluded_classes([name], class_map))[None]
        found = observation_probabilities(excluded, sets_of(class_map))
        torch.testing.assert_close(found, torch.tensor([column], dtype=torch.float32))


def test_without_balance_diagnoses_count_equally():
    class_map = class_map_of({"A": ["a1", "a2"], "B": ["b"]})
    found = observation_probabilities(sets_of(class_map), sets_of(class_map), balanced=False)
    torch.testing.assert_close(found, torch.tensor([[1 / 2, 1, 1, 0], [1 / 2, 0, 0, 1]]))


def test_a_class_that_the_cap_keeps_in_one_of_two_cases():
    """Three kinds, of whose two excluded classes one is kept: S = {c} is seen under A and under B."""
    class_map = class_map_of({"A": ["a"], "B": ["b"], "C": ["c"]})
    found = observation_probabilities(torch.tensor([[False, False, False, True]]), sets_of(class_map), max_excluded=1)
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 1 / 2, 1 / 2, 0]]))


def test_a_mixed_diagnosis_gives_a_finite_loss():
    class_map = class_map_of({"A": ["a"], "B": ["b"], "C": ["c"]})
    mixed = torch.tensor(excluded_classes(["A", "B"], class_map))[None]
    found = observation_probabilities(mixed, sets_of(class_map))
    assert mixed.tolist() == [[False, False, False, True]]
    assert ((found > 0) == ~mixed).all() and (found <= 1).all()
    assert forward_corrected(torch.randn(1, 4, 3, 3), found, 2.0).isfinite().all()


def test_the_method_passes_its_sampler_on():
    class_map = class_map_of({"A": ["a1", "a2"], "B": ["b"]})
    sets, logits = sets_of(class_map), torch.randn(2, 4, 3, 3)
    for settings in ({}, {"balanced": False}, {"max_excluded": 1}):
        config = ComplementarySettings(form=Form.FORWARD_CORRECTED, **settings)
        method = Complementary(replace(make_task(), class_map=class_map), config)
        excluded = sets & (sets.cumsum(dim=1) <= (config.max_excluded or 2))  # as a case would keep them
        observation = observation_probabilities(excluded, sets, config.balanced, config.max_excluded)
        expected = forward_corrected(logits, observation, 2.0).mean()
        assert torch.isfinite(expected)
        torch.testing.assert_close(method.complementary_loss(logits, excluded), expected)


def drawn_sets(sets, balanced, max_excluded, rng):
    """How often the sampler meets each excluded set, with one case per diagnosis and way to keep some of its classes."""
    cases = []
    for excluded in sets:
        members = np.flatnonzero(excluded)
        kept = min(len(members), max_excluded or len(members))
        ways = list(combinations(members, kept)) if kept else []
        cases += [(frozenset(way), 1 / len(ways)) for way in ways]
    classes = sorted(set().union(*(case for case, _ in cases)))
    groups = [[case for case in cases if c in case[0]] for c in classes] if balanced else [cases]
    met = Counter()
    for group, draws in zip(groups, rng.multinomial(DRAWS, [1 / len(groups)] * len(groups)), strict=True):
        weights = np.array([weight for _, weight in group])
        for (case, _), count in zip(group, rng.multinomial(draws, weights / weights.sum()), strict=True):
            met[case] += int(count)
    return met


@examples(20)
@given(st.data())
def test_it_is_the_share_of_each_set_among_the_samples_of_a_class(data):
    """P(S | Y = c) by its definition: how often S is drawn, Y being uniform over the classes that S allows."""
    kinds = [f"t{number}" for number in range(data.draw(st.integers(2, 4)))]
    allowed = st.lists(st.sampled_from(kinds), min_size=1, max_size=len(kinds), unique=True)
    diagnoses = {f"D{i}": data.draw(allowed) for i in range(data.draw(st.integers(1, 4)))}
    diagnoses |= {f"only {kind}": [kind] for kind in kinds}
    balanced, max_excluded = data.draw(st.booleans()), data.draw(st.sampled_from([None, 1, 2]))
    class_map = class_map_of(diagnoses)
    sets = sets_of(class_map)
    sampled = drawn_sets(sets.numpy(), balanced, max_excluded, np.random.default_rng(data.draw(st.integers(0, 99))))
    for observed in sampled:
        excluded = torch.zeros(1, len(class_map), dtype=torch.bool)
        excluded[0, list(observed)] = True
        found = observation_probabilities(excluded, sets, balanced, max_excluded)[0]
        for c in range(len(class_map)):
            of_class = sum(count for each, count in sampled.items() if c not in each)
            share = sampled[observed] / of_class if c not in observed else 0.0
            error = 5 * (share * (1 - share) / max(of_class, 1)) ** 0.5 + 1e-3
            assert abs(float(found[c]) - share) <= error, (diagnoses, observed, c)
