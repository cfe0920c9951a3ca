import numpy as np
import pytest


@pytest.fixture(scope="module")
def results(make_trial):
    """Two budgets: ``good`` beats ``supervised`` at both, ``same`` differs from it by nothing."""
    made = []
    for budget, minutes in (("masks:25%", 130.0), ("masks:3p", 24.0)):
        for replicate in range(2):
            for seed in range(2):
                for method, skill in (("supervised", 0.3), ("good", 0.9), ("same", 0.3)):
                    rng = np.random.default_rng([replicate, seed, int(minutes), int(skill * 10)])
                    made.append(make_trial(method, budget, replicate, seed, rng=rng, skill=skill, minutes=minutes))
    for seed in range(2):
        made.append(make_trial("full", "masks:all", 0, seed, rng=np.random.default_rng(seed), skill=2.0, minutes=999.0))
    return made
