"""Results of an earlier protocol are counted and told, not shown."""

from dataclasses import replace

import numpy as np
import pytest

from tissuebench.common.protocol import PROTOCOL_VERSION
from tissuebench.results.tables.outdated import note_of_outdated, outdated


def test_results_of_another_protocol_are_counted(make_trial):
    made = make_trial("mine", rng=np.random.default_rng(0))
    protocols = [PROTOCOL_VERSION, PROTOCOL_VERSION - 1, 1, None]
    results = [replace(made, identity={} if one is None else {"protocol": one}) for one in protocols]
    assert outdated(results) == 3
    assert outdated(results[:1]) == outdated([]) == 0


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, None),
        (1, "1 result of an earlier protocol is not shown: run its plan again"),
        (42, "42 results of an earlier protocol are not shown: run their plans again"),
    ],
)
def test_the_note_says_what_to_do(number, told):
    assert note_of_outdated(number) == told
