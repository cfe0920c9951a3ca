"""A stage is built into a data module, or refused before anything is trained."""

from __future__ import annotations

import pytest

from tests.benchmark.by_hand import run_by_hand
from tissuebench.errors import ConfigError
from tissuebench.methods import api
from tissuebench.methods.supervised import Supervised


@api.register
class Mistaken(Supervised):
    name = "mistaken_in_a_test"
    summary = "the name of its stream promises tags"
    controls = ()

    def streams(self):
        return {api.StreamName("annotated", api.TagBatch): self.annotated_stream()}


def test_a_name_that_promises_another_label_than_its_stream_has_is_refused(bench):
    (trial,) = bench.trials(bench.plan("seeds=[0]", "budgets=['masks:2p']"), "mistaken_in_a_test")
    with pytest.raises(ConfigError, match="gives a MaskBatch, not the TagBatch that its name promises"):
        run_by_hand([trial], bench.data, bench.home)
