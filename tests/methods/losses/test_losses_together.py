"""Losses of a batch that two processes share: the mean of what they get is what one gets of the whole."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.methods.losses.parts import LOSSES
from tests.processes import run_processes, start_script

PARTS = (slice(0, 3), slice(3, 5))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("said")
    start_script("tests.methods.losses.test_losses_together", str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(PARTS))]


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_give_the_loss_and_the_gradients_of_one(said, name):
    means = np.mean([each[name] for each in said], axis=0)
    np.testing.assert_allclose(means, LOSSES[name](slice(0, 5)), rtol=1e-11, atol=1e-15)


if __name__ == "__main__":

    def say(world):
        found = {name: of_part(PARTS[world.rank]) for name, of_part in LOSSES.items()}
        (Path(sys.argv[1]) / f"{world.rank}.json").write_text(json.dumps(found))

    run_processes(len(PARTS), say)
