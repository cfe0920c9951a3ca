"""What of the network is in a trial's identity: the weights by content, and no place."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import timm
import torch

from tissuebench.bench import BenchRequest, prepare, read_plan
from tissuebench.errors import ConfigError
from tissuebench.methods.networks.settings import NetworkSettings
from tissuebench.plans.expand import expand
from tissuebench.plans.trial import Trial, identity_of_network
from tissuebench.sweep.graph import build_graph
from tissuebench.sweep.jobs import TaskKind

ENCODER = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same weights in two folders, and under the first one's name with one bit changed."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state = timm.create_model(ENCODER, num_classes=0).state_dict()
    paths = [folder / name / "encoder.safetensors" for name in ("here", "elsewhere", "changed")]
    for path in paths:
        path.parent.mkdir()
        safetensors.torch.save_file(state, path)
    changed = bytearray(paths[2].read_bytes())
    changed[-1] ^= 1
    paths[2].write_bytes(changed)
    return paths


def settings_with(path: object, *more: str) -> tuple[str, ...]:
    return (f"network.encoder={ENCODER}", f"network.weights={path}", "network.decoder=fpn", *more)


def trial_with(bench, path: object, *more: str) -> Trial:
    return expand(bench.plan(*settings_with(path, *more)), ("supervised",), bench.data, bench.home)[0]


def test_the_same_file_elsewhere_is_the_same_trial_and_another_one_is_not(bench, files):
    """Also for the stages and features that trials share; no path is in an identity."""
    keys = []
    for path in files:
        plan = bench.plan(*settings_with(path, "network.encoder_mode=frozen"))
        trials = expand(plan, ("supervised", "mean_teacher_restarted"), bench.data, bench.home)
        graph = build_graph(trials, bench.data, bench.home)
        keys.append({kind: {task.key for task in graph.of_kind(kind)} for kind in TaskKind})
        assert str(path) not in json.dumps([trial.identity() for trial in trials])
    assert keys[0] == keys[1]
    for kind, own in keys[0].items():
        assert own and own.isdisjoint(keys[2][kind]), kind


def test_a_worker_with_other_weights_refuses_the_task(bench, files, tmp_path):
    """The file was replaced after the plan was read."""
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(files[0].read_bytes())
    trial = trial_with(bench, path)
    restored = Trial.of_document(json.loads(json.dumps(trial.document())))
    assert restored.id == trial.id
    restored.check_weights()
    path.write_bytes(files[2].read_bytes())
    with pytest.raises(ConfigError, match=r"encoder.safetensors' of vit_tiny_patch16_224 are others here"):
        restored.check_weights()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            {"encoder_mode": "frozen", "feature_cache": "disk"},
            {"encoder_mode": "frozen", "feature_cache": "memory"},
            True,
        ),
        (
            {"encoder_mode": "frozen", "feature_cache": "disk"},
            {"encoder_mode": "frozen", "feature_cache": "off"},
            False,
        ),
        ({"encoder_mode": "lora", "lora_rank": 4}, {"encoder_mode": "lora", "lora_rank": 8}, False),
        ({"lora_rank": 4}, {"lora_rank": 8}, True),
        ({"depths": 4}, {"depths": 2}, False),
    ],
)
def test_what_decides_a_result_is_in_its_identity_and_what_does_not_is_not(one, other, same):
    found = [identity_of_network(NetworkSettings(weights="timm", **each), "0" * 64) for each in (one, other)]
    assert (found[0] == found[1]) is same


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("network.encoder=vit_tinyy",), "network.encoder: unknown encoder 'vit_tinyy'"),
        (("network.weights=/no/such/file.bin",), "network.weights: no such file or folder: /no/such/file.bin"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_told_before_any_data_are_read(bench, settings, said):
    request = BenchRequest(("supervised",), str(bench.plan_path), bench.home, ("synthetic",), overrides=settings)
    with pytest.raises(ConfigError, match=said):
        read_plan(request)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("network.encoder=beit_base_patch16_224", "network.weights=none"), "cannot predict a tile of"),
        (("network.encoder=resnet18", "network.weights=none", "network.decoder=dpt"), "'dpt' reads the tokens"),
        (("network.encoder=vit_small_patch16_224",), "weights of another model"),
    ],
)
def test_a_network_that_cannot_work_is_told_before_a_task_is_laid_out(bench, files, more, said):
    request = BenchRequest(
        ("supervised",), str(bench.plan_path), bench.home, overrides=(*settings_with(files[0]), *more)
    )
    with pytest.raises(ConfigError, match=said) as caught:
        prepare(request)
    assert "\n" not in str(caught.value)
