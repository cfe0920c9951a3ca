"""ImageNet weights of ResNet-38 from MXNet's file and from PyTorch's: every tensor in its place, or a refusal."""

import pytest
import safetensors.torch
import torch

from tests.methods.networks.mxnet_writer import VERSIONS, mxnet_name, write_params
from tissuebench.errors import ConfigError
from tissuebench.methods.networks.paper_resnet38 import ResNet38
from tissuebench.methods.networks.resnet38_weights import read_resnet38, torch_name

COUNTER = "num_batches_tracked"


def drawn(width=4):
    """Return the tensors of a network in which no two are alike."""
    generator = torch.Generator().manual_seed(0)
    state = ResNet38(width).state_dict()
    return {name: torch.rand(one.shape, generator=generator) for name, one in state.items() if COUNTER not in name}


def in_mxnet(state):
    classifier = {"arg:linear1000_weight": torch.ones(1000, 256), "arg:linear1000_bias": torch.ones(1000)}
    return {mxnet_name(name): tensor for name, tensor in state.items()} | classifier


@pytest.mark.parametrize("version", VERSIONS)
def test_mxnets_file_is_mapped_by_name(tmp_path, version):
    state, path = drawn(), tmp_path / "a1.params"
    write_params(path, in_mxnet(state), version)
    network = ResNet38(4)
    network.load_state_dict(read_resnet38(path, ResNet38(4)), strict=False)
    found = network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("mxnet", "torchs"),
    [
        ("arg:conv1a_weight", "conv1a.weight"),
        ("arg:res2a_branch1_weight", "b2.conv_branch1.weight"),
        ("arg:res2b1_branch2a_weight", "b2_1.conv_branch2a.weight"),
        ("arg:res4b5_branch2b1_weight", "b4_5.conv_branch2b1.weight"),
        ("arg:bn4b5_branch2b1_gamma", "b4_5.bn_branch2b1.weight"),
        ("aux:bn5a_branch2a_moving_mean", "b5.bn_branch2a.running_mean"),
        ("arg:res7a_branch2b2_weight", "b7.conv_branch2b2.weight"),
        ("aux:bn7a_branch2b2_moving_var", "b7.bn_branch2b2.running_var"),
        ("bn7_beta", "bn7.bias"),
        ("arg:linear1000_bias", "linear1000.bias"),
    ],
)
def test_names_are_those_of_the_published_file(tmp_path, mxnet, torchs):
    """As ``convert_mxnet_to_torch`` in ``network/resnet38d.py`` of the official code maps them."""
    assert torch_name(mxnet, tmp_path) == torchs


@pytest.mark.parametrize(
    "name",
    [
        "arg:res8a_branch1_weight",
        "arg:res2a_branch1_gamma",
        "arg:bn2a_branch2a_weight",
        "arg:fc_weight",
        "arg:bn7_weight",
    ],
)
def test_an_unknown_tensor_is_an_error(tmp_path, name):
    path = tmp_path / "a1.params"
    write_params(path, in_mxnet(drawn()) | {name: torch.ones(1)}, 2)
    with pytest.raises(ConfigError, match=f"a1.params: '{name}' is no tensor of ResNet-38") as caught:
        read_resnet38(path, ResNet38(4))
    assert "\n" not in str(caught.value)


def saved(path, state):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["psa.pth", "a1.safetensors"])
def test_pytorchs_names_are_taken_as_they_are(tmp_path, name):
    """With counters or without, and with a classifier of 1000 classes or without."""
    state = drawn()
    more = {"bn7.num_batches_tracked": torch.tensor(5), "linear1000.weight": torch.ones(1000, 256)}
    for content in (state, state | more):
        found = read_resnet38(saved(tmp_path / name, content), ResNet38(4))
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("b4_5.conv_branch2b1.weight"), r"lacks 1 tensors \(b4_5.conv_branch2b1.weight\)"),
        (
            lambda state: state.update({"fc8.weight": torch.ones(20, 256, 1, 1)}),
            r"unknown to the network, 1 tensors \(fc8",
        ),
        (
            lambda state: state.update({"bn7.bias": torch.ones(7)}),
            "bn7.bias is 7 float32, the network's is 256 float32",
        ),
        (lambda state: state.update({"bn7.bias": torch.ones(256).long()}), "bn7.bias is 256 int64"),
    ],
)
def test_what_is_not_exactly_the_network_is_refused(tmp_path, change, said):
    state = drawn()
    change(state)
    with pytest.raises(ConfigError, match=said) as caught:
        read_resnet38(saved(tmp_path / "net.pth", state), ResNet38(4))
    assert "\n" not in str(caught.value) and "net.pth" in str(caught.value)


def test_another_width_is_another_network(tmp_path):
    path = tmp_path / "a1.params"
    write_params(path, in_mxnet(drawn(8)), 2)
    with pytest.raises(ConfigError, match=r"conv1a.weight is 8 x 3 x 3 x 3 float32, the network's is 4 x 3 x 3 x 3"):
        read_resnet38(path, ResNet38(4))
