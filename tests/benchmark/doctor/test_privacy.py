"""Names and secrets that do not belong in a bug report."""

from __future__ import annotations

import os

import pytest

from tissuebench.doctor import privacy
from tissuebench.doctor.privacy import masked


@pytest.fixture(autouse=True)
def somebody(tmp_path, monkeypatch):
    """A user on a machine of the hospital."""
    for name in ("HF_ENDPOINT", "WANDB_BASE_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr(privacy.socket, "gethostname", lambda: "patho7.hospital.example")
    return tmp_path


def test_the_home_directory(somebody):
    home = somebody / "ada"
    assert masked(f"{home}: writable") == "~: writable"
    assert masked(f"in {home}/runs, {home}") == "in ~/runs, ~"
    assert masked(f"{somebody}/volume/ada/runs") == f"{somebody}/volume/USER/runs"  # where a link may lead
    assert masked(f"{home}m/runs") == f"{home}m/runs"
    assert masked(f"/mnt{home}/runs") == f"/mnt{somebody}/USER/runs"


def test_the_user_in_other_folders():
    assert masked("/scratch/ada/runs") == "/scratch/USER/runs"
    assert masked("/scratch/adam/ada.txt, ada") == "/scratch/adam/ada.txt, ada"


def test_the_machine_and_private_servers(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.hospital.example:8443")
    monkeypatch.setenv("https_proxy", "http://ada:password@proxy.hospital.example:3128")
    assert masked("patho7: gone; PATHO7.hospital.example, patho77") == "HOST: gone; HOST, patho77"
    assert masked("no answer from wandb.hospital.example") == "no answer from WANDB_BASE_URL"
    assert masked("Cannot connect to proxy.hospital.example") == "Cannot connect to HTTPS_PROXY"


def test_secrets_passwords_and_what_cannot_be_printed(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "feedc0defeedc0de")
    assert masked("key feedc0defeedc0de") == "key ***"
    assert "letmein" not in masked("http://ada:letmein@server.example/")
    assert masked("two\nlines\x1b[31m") == "two lines?[31m"


def test_a_home_directory_at_the_root_masks_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("LOGNAME", "root")
    assert masked("/data/root") == "/data/root"


def test_a_user_without_a_name_and_a_home_directory(monkeypatch):
    """As in a container that runs under a bare number."""
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    assert masked("/data/ada: writable") == "/data/ada: writable"
