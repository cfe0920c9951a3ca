"""Weights & Biases: off, without a key, with a server that answers, and with none."""

from __future__ import annotations

import pytest

from tests.wandb_server import WandbServer
from tissuebench.doctor.examine import examine
from tissuebench.doctor.finding import State

KEY = "feedc0de" * 5


@pytest.fixture
def examined(tmp_path, monkeypatch):
    """Examines in a process of its own, with an account that is empty unless a key is set."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    own = tmp_path / "own"
    own.mkdir()
    for name, value in {"HOME": own, "WANDB_CONFIG_DIR": own / "config", "NETRC": own / "netrc"}.items():
        monkeypatch.setenv(name, str(value))

    def examined(**environment: str):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (found,) = examine(tmp_path, ["tissuebench.doctor.tracking"])
        assert KEY not in str(found)
        assert not list(own.rglob("*.log"))
        return found

    return examined


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_that_sends_nothing_is_as_wanted(examined, mode):
    found = examined(WANDB_MODE=mode)
    assert (found.state, found.found) == (State.OK, f"nothing is sent: WANDB_MODE={mode}")


def test_without_a_key(examined):
    found = examined()
    assert (found.state, found.found) == (State.NOTE, "no API key: set WANDB_API_KEY")
    assert found.advice.startswith("optional: ")


def test_a_key_and_a_server(examined):
    with WandbServer() as server:
        found = examined(WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    assert (found.state, found.found) == (State.OK, "a key is configured, and the server answers")


def test_a_server_that_does_not_answer_is_not_named(examined):
    found = examined(WANDB_BASE_URL="http://wandb.invalid", WANDB_API_KEY=KEY)
    assert (found.state, found.found) == (State.NOTE, "no answer from WANDB_BASE_URL")
