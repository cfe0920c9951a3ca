"""Names that once stood for parts of a published recipe are read as what they were."""

from __future__ import annotations

import pytest

from tissuebench.results.records.former_names import present_name

PARTIAL, WHOLE = {"config": {"gate": 0.1}}, {"config": {"gate": 0.1, "training": {"epochs": 30}}}


@pytest.mark.parametrize(
    ("name", "identity", "present"),
    [
        ("multilayer_pseudo_published", PARTIAL, "multilayer_pseudo_maps"),
        ("multilayer_pseudo_published[gate=None]", PARTIAL, "multilayer_pseudo_maps[gate=None]"),
        ("diffusion_published", PARTIAL, "diffusion_published[training=plan]"),
        ("diffusion_published[width=32]", PARTIAL, "diffusion_published[training=plan,width=32]"),
        ("diffusion_published", WHOLE, "diffusion_published"),
        ("multilayer_pseudo_published[gate=None]", WHOLE, "multilayer_pseudo_published[gate=None]"),
        ("supervised", PARTIAL, "supervised"),
    ],
)
def test_a_result_without_the_recipes_training_does_not_bear_its_name(name, identity, present):
    assert present_name(name, identity) == present
