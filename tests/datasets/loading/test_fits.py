"""Whole fits: resumed ones and those of two processes see the same samples as an uninterrupted one."""

from __future__ import annotations

import json

import pytest

from tests.datasets.loading.fits import FIT_STEPS, fit_and_resume
from tests.processes import output_of


@pytest.mark.parametrize("stop", [1, 2, 5])
@pytest.mark.parametrize("workers", ["0", "2 fork"])
def test_a_resumed_fit_sees_what_an_uninterrupted_one_sees(tiny_data, tmp_path, workers, stop, recwarn):
    whole = fit_and_resume(tiny_data.store, tiny_data.split, workers, 1, stop, tmp_path)
    assert len(whole["whole"]) == FIT_STEPS
    assert whole["resumed"] == whole["whole"][stop:]
    assert len({json.dumps(step) for step in whole["whole"]}) == FIT_STEPS
    assert not [str(warning.message) for warning in recwarn if "not resumable" in str(warning.message)]


@pytest.mark.parametrize(
    "workers", ["0", pytest.param("2 fork", marks=pytest.mark.slow), pytest.param("2 spawn", marks=pytest.mark.slow)]
)
def test_two_processes_see_together_what_one_sees_and_resume_there(tiny_data, tmp_path, workers):
    """Real processes over gloo: parts of a step, augmented, are the whole step of one process, tile for tile."""
    alone = fit_and_resume(tiny_data.store, tiny_data.split, "0", 1, 2, tmp_path / "alone")
    told = (str(tiny_data.home / "data" / "tiny"), workers, str(tmp_path))
    output_of("tests.datasets.loading.fits", *told, PYTHONHASHSEED="7", GLOO_SOCKET_IFNAME="lo")
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for run in ("whole", "resumed"):
        together = [
            {name: first[name] + second[name] for name in first}
            for first, second in zip(ranks[0][run], ranks[1][run], strict=True)
        ]
        assert together == alone[run]
    assert all(rank["resumed"] == rank["whole"][2:] for rank in ranks)
