"""Losses of a batch that two processes share: the mean of what they get is what one gets of the whole."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.methods.contrastive import test_distillation
from tests.methods.denoising import test_schedule as test_noise_schedule
from tests.methods.losses import test_consistency as test_consistency_loss
from tests.methods.losses import test_dice as test_dice_loss
from tests.methods.losses import test_focal as test_focal_loss
from tests.methods.losses import test_multi_target as test_multi_target_loss
from tests.methods.losses import test_poly_log as test_poly_log_loss
from tests.methods.losses import test_structural_similarity as test_structural_similarity_loss
from tests.methods.losses import test_tversky as test_tversky_loss
from tests.processes import run_processes, start_script

LOSSES = (
    test_consistency_loss,
    test_dice_loss,
    test_distillation,
    test_focal_loss,
    test_multi_target_loss,
    test_noise_schedule,
    test_poly_log_loss,
    test_structural_similarity_loss,
    test_tversky_loss,
)
NAMES = [loss.__name__.rpartition(".")[2] for loss in LOSSES]
PARTS = (slice(0, 3), slice(3, 5))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("said")
    start_script("tests.methods.losses.test_losses_together", str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(PARTS))]


@pytest.mark.parametrize("index", range(len(LOSSES)), ids=NAMES)
def test_two_processes_give_the_loss_and_the_gradients_of_one(said, index):
    means = np.mean([each[index] for each in said], axis=0)
    np.testing.assert_allclose(means, LOSSES[index].of_part(slice(0, 5)), rtol=1e-11, atol=1e-15)


if __name__ == "__main__":

    def say(world):
        found = [loss.of_part(PARTS[world.rank]) for loss in LOSSES]
        (Path(sys.argv[1]) / f"{world.rank}.json").write_text(json.dumps(found))

    run_processes(len(PARTS), say)
