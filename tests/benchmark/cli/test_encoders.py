"""``tissuebench encoders``: the list, and the check of a name or file."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from click.testing import CliRunner

from tissuebench.cli.main import cli
from tissuebench.errors import ConfigError
from tissuebench.methods.networks.encoder_catalogue import CATALOGUE
from tissuebench.methods.networks.encoder_weights import weights_sha256
from tissuebench.methods.networks.settings import NetworkSettings


def type_in(*words: str):
    return CliRunner().invoke(cli, ["encoders", *words])


def test_the_list_has_a_line_for_each_and_says_who_asks_for_access():
    lines = type_in("list").output.splitlines()
    assert len(lines) == 1 + len(CATALOGUE)
    assert "on request" in next(line for line in lines if line.startswith("uni "))
    entries = json.loads(type_in("list", "--json").output)
    assert [entry["name"] for entry in entries] == list(CATALOGUE)
    assert entries[0]["mpps"] == [0.5]


def test_a_file_is_recognised_and_reported(tmp_path):
    """The encoder of the list that it fits, its maps, and the hash that trials will hold."""
    path = tmp_path / "weights.pt"
    torch.save(timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict(), path)
    report = json.loads(type_in("check", str(path), "--tile-px", "100", "--json").output)
    assert (report["encoder"], report["also"]) == ("dinov2-s", [])
    assert report["channels"] == [384] * 4
    assert report["strides"] == [14] * 4
    assert report["feature_bytes"] == 2 * 4 * 384 * 8 * 8  # 112 px after padding
    assert report["sha256"] == weights_sha256(NetworkSettings(encoder="dinov2-s", weights=str(path)))
    output = type_in("check", str(path)).output
    assert "tokens of 4 depths, 384 channels at stride 14" in output
    assert "Apache-2.0" in output


def test_a_name_is_built_with_the_weights_that_are_asked_for():
    report = json.loads(type_in("check", "resnet18", "--weights", "none", "--json").output)
    assert (report["sha256"], report["channels"]) == (None, [64, 128, 256, 512])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check", "resnet344"), "did you mean 'resnet34'"),
        (("check", "weights/uni.bin"), "no such file or folder: weights/uni.bin"),
        (("check", "absent.bin", "--encoder", "uni"), "no such file or folder: absent.bin"),
        (("check", "beit_base_patch16_224", "--weights", "none", "--tile-px", "100"), "cannot encode a tile of 100 px"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(words, said):
    result = type_in(*words)
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_file_that_fits_nothing_asks_for_a_name(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"layer.weight": torch.zeros(3, 3)}, path)
    assert "fits no encoder of the list; name the one that it belongs to: --encoder NAME" in str(
        type_in("check", str(path)).exception
    )
