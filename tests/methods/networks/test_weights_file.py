"""A file of weights in settings: the same tensors are the same weights, wherever and however they are stored."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.methods.networks.mxnet_writer import VERSIONS, mxnet_name, write_params
from tissuebench.common.settings import Settings
from tissuebench.errors import ConfigError
from tissuebench.methods.networks.paper_resnet38 import ResNet38
from tissuebench.methods.networks.resnet38_weights import read_resnet38
from tissuebench.methods.networks.weights_file import WeightsFile, without_files


class SmallWeights(WeightsFile):
    """Weights of a ResNet-38 of width 4."""

    @classmethod
    def read(cls, path: Path) -> dict[str, torch.Tensor]:
        return read_resnet38(path, ResNet38(4))


class Inner(Settings):
    weights: SmallWeights | None = None


class Outer(Settings):
    own: SmallWeights | None = None
    inner: Inner = Inner()


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {name: one for name, one in ResNet38(4).state_dict().items() if "num_batches" not in name}


@pytest.fixture
def pth(state, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(state, path)
    return path


def sha256_of(path):
    return SmallWeights.model_validate(str(path)).sha256


def test_folder_and_format_do_not_matter_and_a_value_does(state, pth, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    mxnet = {mxnet_name(name): tensor for name, tensor in state.items()}
    paths = [tmp_path / "elsewhere" / f"{version}.params" for version in VERSIONS]
    for version, path in zip(VERSIONS, paths, strict=True):
        write_params(path, mxnet, version)
    assert {sha256_of(path) for path in (pth, *paths)} == {sha256_of(pth)}
    changed = state["b7.conv_branch1.weight"].clone()
    changed[0, 0] += 1e-6
    torch.save(state | {"b7.conv_branch1.weight": changed}, tmp_path / "changed.pth")
    assert sha256_of(tmp_path / "changed.pth") != sha256_of(pth)


def test_a_path_becomes_absolute_and_survives_storage(pth, monkeypatch):
    monkeypatch.chdir(pth.parent)
    settings = Outer.model_validate({"own": "net.pth"})
    assert settings.own is not None and settings.own.path == str(pth)
    pth.unlink()  # stored settings are read where there is no such file, too
    assert Outer.model_validate(settings.stored()) == settings


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_a_file_that_cannot_be_had_is_told_with_its_name(tmp_path, content):
    path = tmp_path / "net.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValidationError, match=str(path)) as caught:
        Outer.model_validate({"own": str(path)})
    (error,) = caught.value.errors()
    assert error["loc"] == ("own",) and "\n" not in error["msg"]


def test_weights_are_loaded_and_others_refused(state, pth):
    file = SmallWeights.model_validate(str(pth))
    torch.manual_seed(9)
    network = ResNet38(4)
    file.load_into(network)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())
    torch.save(state | {"bn7.bias": state["bn7.bias"] + 1}, pth)
    with pytest.raises(ConfigError, match=r"net.pth: holds other weights here than where the plan was read"):
        file.load_into(ResNet38(4))


def test_a_file_that_changes_has_another_hash(state, pth):
    before = sha256_of(pth)
    torch.save(state | {"bn7.bias": state["bn7.bias"] + 1, "linear1000.bias": torch.ones(9)}, pth)
    assert sha256_of(pth) != before


def test_without_files_nothing_is_loaded_at_any_depth(pth):
    settings = Outer.model_validate({"own": str(pth), "inner": {"weights": str(pth)}})
    bare = without_files(settings)
    assert bare.own is not None and bare.inner.weights is not None
    assert (bare.own.path, bare.inner.weights.path) == (None, None)
    assert bare.own.sha256 == settings.own.sha256
    pth.unlink()
    network = ResNet38(4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    bare.own.load_into(network)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert without_files(Outer()) == Outer()
